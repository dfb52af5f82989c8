//! Which functions proxies run, in the order they should lie in the program.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;

use super::documents::Token;
use super::{AT_ONCE, CASES, Case, Pair, SETTLE, WARM_UP, folder_of};
use crate::callgrind;

/// What pairs of one kind run.
#[derive(Default)]
struct Run {
    /// For requests.
    busy: Vec<String>,
    /// When they start, refuse, and lose a connection.
    seldom: Vec<String>,
}

impl Run {
    /// Starts a pair, and takes it through everything that happens to most.
    fn add(&mut self, case: &Case<'_>) -> Result<()> {
        let folder = case.work.join(folder_of(case.name, "order"));
        std::fs::create_dir_all(&folder)?;
        let file = |which: &str| folder.join(which);
        let pair = Pair::start(case, &folder, |which| callgrind::noting(case.proxy, &file(which)))?;
        let client = pair.warm(case)?;
        for (which, proxy) in pair.both() {
            self.seldom.extend(callgrind::functions(proxy.pid(), &file(which), 1)?);
        }
        client.drive(WARM_UP)?;
        std::thread::sleep(SETTLE);
        for (which, proxy) in pair.both() {
            self.busy.extend(callgrind::functions(proxy.pid(), &file(which), 2)?);
        }
        client.be_refused()?;
        drop(client);
        std::thread::sleep(SETTLE);
        self.seldom.extend(callgrind::functions(pair.a.pid(), &file("a"), 3)?);
        drop(pair.a);
        std::thread::sleep(SETTLE);
        self.seldom.extend(callgrind::functions(pair.b.pid(), &file("b"), 3)?);
        Ok(())
    }
}

/// What proxies run. What only tokens need lies around the rest, so that a proxy without them
/// touches one piece, and requests of each kind run in one.
pub(crate) fn functions(proxy: &Path, work: &Path) -> Result<Vec<String>> {
    let (mut plain, mut tokens) = (Run::default(), Run::default());
    for (name, protocol, token) in CASES {
        eprintln!("{name}");
        let run = match token {
            Token::None => &mut plain,
            Token::Fresh => &mut tokens,
        };
        run.add(&Case { proxy, work, name, protocol, token, at_once: AT_ONCE[1] })?;
    }
    Ok(around(plain, tokens))
}

fn around(plain: Run, tokens: Run) -> Vec<String> {
    let inner: HashSet<String> = plain.busy.iter().chain(&plain.seldom).cloned().collect();
    let before = tokens.busy.into_iter().filter(|function| !inner.contains(function));
    let all = before.chain(plain.busy).chain(plain.seldom).chain(tokens.seldom);
    let mut seen = HashSet::new();
    all.filter(|function| seen.insert(function.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tokens_need_lies_around_the_rest() {
        let run = |busy: &str, seldom: &str| {
            let names = |text: &str| text.split(' ').map(str::to_owned).collect();
            Run { busy: names(busy), seldom: names(seldom) }
        };
        let order = around(run("read write", "start read"), run("sign read start", "key start"));
        assert_eq!(order, ["sign", "read", "write", "start", "key"]);
    }
}
