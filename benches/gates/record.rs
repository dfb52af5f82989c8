//! The recorded figures and how new ones compare with them.
//!
//! One line each in `benches/gates.txt`, so that a diff shows what a change costs or saves. What
//! may move and how far is decided here, per unit.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// In user space.
    Instructions,
    /// Requests of Rust code to the allocator.
    Allocations,
    /// System calls of all threads.
    Syscalls,
    /// Of a future.
    Bytes,
}

impl Unit {
    const ALL: [Unit; 4] = [Unit::Instructions, Unit::Allocations, Unit::Syscalls, Unit::Bytes];

    fn name(self) -> &'static str {
        match self {
            Unit::Instructions => "instructions",
            Unit::Allocations => "allocations",
            Unit::Syscalls => "syscalls",
            Unit::Bytes => "bytes",
        }
    }

    /// How far a figure may rise, as a share of it and at least by so much. Instructions of a step
    /// repeat to within 1 % (signatures, whose random numbers differ). How many of 32 requests share
    /// a turn of the loop, a record and a write is for the kernel and the load of the machine to
    /// say: there instructions moved by up to 8 % and allocations by up to 7 % between runs.
    fn tolerance(self, name: &str) -> (f64, f64) {
        match self {
            // What they do each second is taken off, give or take one; how many audit records are
            // written at once is for the kernel to say.
            Unit::Instructions if name.ends_with("_aside") => (0.15, 3000.0),
            Unit::Allocations if name.ends_with("_aside") => (0.15, 3.0),
            Unit::Instructions if name.contains("/32/") => (0.12, 3.0),
            Unit::Allocations if name.contains("/32/") => (0.1, 0.25),
            Unit::Syscalls if name.contains("/32/") => (0.25, 0.5),
            Unit::Instructions if name.starts_with("path/") => (0.05, 3.0),
            Unit::Allocations if name.starts_with("path/") => (0.05, 0.25),
            Unit::Syscalls if name.starts_with("path/") => (0.1, 0.3),
            // What the compiler makes of the smallest steps differs a little with where it is built.
            Unit::Instructions => (0.02, 8.0),
            Unit::Allocations => (0.01, 0.25),
            Unit::Syscalls => (0.05, 0.3),
            Unit::Bytes => (0.0, 0.0),
        }
    }

    fn print(self, value: f64) -> String {
        match self {
            Unit::Instructions | Unit::Bytes => format!("{value:.0}"),
            Unit::Allocations | Unit::Syscalls => format!("{value:.2}"),
        }
    }
}

/// One figure, per operation or request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
}

/// What `benches/gates.txt` holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    versions: String,
    figures: BTreeMap<(String, Unit), f64>,
}

const HEAD: &str = "\
# What one operation or one request costs, counted; written by `cargo xtask gates --record`, compared in CI.
# instructions: user space, under callgrind; allocations: requests to the allocator; syscalls: all threads.
# path/: per request, one or 32 at once; a and b are the workers of the first and the second proxy, a_aside and
# b_aside their other threads, which write audit records. System calls are those of all threads.
# future/: bytes that live as long as a connection, and that a request runs in.
";
const RECORDED_WITH: &str = "# Recorded with ";

impl Record {
    /// Reads a file; one that does not exist holds nothing.
    pub(crate) fn read(path: &Path) -> Result<Record> {
        match std::fs::read_to_string(path) {
            Ok(text) => Record::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    fn parse(text: &str) -> Result<Record> {
        let mut record = Record::default();
        for line in text.lines() {
            if let Some(versions) = line.strip_prefix(RECORDED_WITH) {
                record.versions = versions.trim_end_matches('.').to_owned();
            } else if !line.starts_with('#') && !line.trim().is_empty() {
                let (key, value) = parse_line(line).with_context(|| format!("`{line}`"))?;
                record.figures.insert(key, value);
            }
        }
        Ok(record)
    }

    /// With what it was recorded.
    pub(crate) fn versions(&self) -> &str {
        &self.versions
    }

    /// The same with new figures for all names that contain `filter`.
    pub(crate) fn with(mut self, filter: &str, figures: Vec<Figure>) -> Record {
        self.figures.retain(|(name, _), _| !name.contains(filter));
        self.figures.extend(figures.into_iter().map(|new| ((new.name, new.unit), new.value)));
        self
    }

    /// As it stands in the file.
    pub(crate) fn text(&self, versions: &str) -> String {
        let mut text = format!("{HEAD}{RECORDED_WITH}{versions}.\n");
        for ((name, unit), value) in &self.figures {
            let value = unit.print(*value);
            let _ = writeln!(text, "{name:<44} {:<12} {value:>12}", unit.name());
        }
        text
    }

    /// Compares what was counted with what is recorded of names that contain `filter`.
    pub(crate) fn compare(&self, filter: &str, figures: &[Figure]) -> Verdict {
        let mut verdict = Verdict::default();
        for figure in figures {
            let key = (figure.name.clone(), figure.unit);
            verdict.lines.push(judge(figure, self.figures.get(&key).copied()));
        }
        let counted = |key: &(String, Unit)| {
            figures.iter().any(|figure| figure.name == key.0 && figure.unit == key.1)
        };
        for key in self.figures.keys().filter(|key| key.0.contains(filter) && !counted(key)) {
            let what =
                format!("{:<44} {:<12} is recorded, but was not counted", key.0, key.1.name());
            verdict.lines.push((Grade::Gone, what));
        }
        verdict
    }
}

fn parse_line(line: &str) -> Option<((String, Unit), f64)> {
    let mut words = line.split_whitespace();
    let (name, unit, value) = (words.next()?, words.next()?, words.next()?);
    let unit = Unit::ALL.into_iter().find(|known| known.name() == unit)?;
    let value = value.parse().ok()?;
    words.next().is_none().then(|| ((name.to_owned(), unit), value))
}

/// How one figure fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Same,
    Fell,
    Rose,
    New,
    Gone,
}

fn judge(figure: &Figure, recorded: Option<f64>) -> (Grade, String) {
    let Figure { name, unit, value } = figure;
    let shown = unit.print(*value);
    let Some(before) = recorded else {
        return (
            Grade::New,
            format!("{name:<44} {:<12} {shown:>12}  is not recorded", unit.name()),
        );
    };
    let (share, least) = unit.tolerance(name);
    let allowed = (before * share).max(least);
    let grade = match value - before {
        // Nothing falls that far: what counts has lost sight of it.
        rise if rise < -allowed && *value == 0.0 => Grade::Gone,
        rise if rise > allowed => Grade::Rose,
        rise if rise < -allowed => Grade::Fell,
        _ => Grade::Same,
    };
    let percent = if before == 0.0 { 0.0 } else { (value - before) / before * 100.0 };
    let before = unit.print(before);
    let line =
        format!("{name:<44} {:<12} {before:>12} -> {shown:>12}  {percent:+.1} %", unit.name());
    (grade, line)
}

/// The outcome of a comparison, line by line.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    lines: Vec<(Grade, String)>,
}

impl Verdict {
    /// Whether nothing rose, came or went.
    pub(crate) fn passes(&self) -> bool {
        self.problems() == 0
    }

    /// How many did.
    pub(crate) fn problems(&self) -> usize {
        self.lines.iter().filter(|(grade, _)| !matches!(grade, Grade::Same | Grade::Fell)).count()
    }

    /// All figures, those that moved last and marked.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let of = |wanted: Grade| self.lines.iter().filter(move |(grade, _)| *grade == wanted);
        for (grade, mark) in [
            (Grade::Same, ""),
            (Grade::Fell, "  fell: record it, so that it stays"),
            (Grade::New, ""),
            (Grade::Gone, "  GONE"),
            (Grade::Rose, "  ROSE"),
        ] {
            for (_, line) in of(grade) {
                let _ = writeln!(text, "{line}{mark}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, unit: Unit, value: f64) -> Figure {
        Figure { name: name.to_owned(), unit, value }
    }

    fn record() -> Record {
        let text =
            "# Recorded with x.\nmint/es256  instructions  1000\nmint/es256 allocations 9.00\n";
        Record::parse(text).unwrap()
    }

    #[test]
    fn a_rise_beyond_the_tolerance_fails_and_says_how_far() {
        let same = [figure("mint/es256", Unit::Instructions, 1019.0)];
        assert!(record().compare("instr", &same).passes());
        let more = [
            figure("mint/es256", Unit::Instructions, 1030.0),
            figure("mint/es256", Unit::Allocations, 8.0),
        ];
        let verdict = record().compare("", &more);
        assert_eq!(verdict.problems(), 1);
        let text = verdict.text();
        assert!(text.contains("1000 ->         1030  +3.0 %  ROSE"), "{text}");
        assert!(text.contains("-11.1 %  fell"), "{text}");
    }

    #[test]
    fn only_what_the_kernel_bunches_may_rise_far() {
        let share = |name| Unit::Instructions.tolerance(name).0;
        assert!(share("path/h1/no_token/32/a") > share("path/h1/no_token/1/a"));
        assert!(share("path/h1/no_token/1/a") > share("decide/1000_rules/permit"));
    }

    #[test]
    fn what_is_new_or_gone_fails_but_not_what_was_left_out() {
        let new = [figure("decide/1", Unit::Instructions, 5.0)];
        assert_eq!(record().compare("", &new).problems(), 3);
        assert_eq!(record().compare("decide", &new).problems(), 1);
    }

    #[test]
    fn what_is_no_longer_counted_did_not_fall() {
        let none = [
            figure("mint/es256", Unit::Instructions, 900.0),
            figure("mint/es256", Unit::Allocations, 0.0),
        ];
        let verdict = record().compare("", &none);
        assert_eq!(verdict.problems(), 1, "{}", verdict.text());
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let new = vec![figure("decide/1", Unit::Syscalls, 4.25)];
        let text = record().with("decide", new).text("valgrind");
        let back = Record::parse(&text).unwrap();
        assert_eq!(back.versions(), "valgrind");
        assert_eq!(back.figures.len(), 3);
        assert_eq!(back.figures[&("decide/1".to_owned(), Unit::Syscalls)], 4.25);
        assert!(Record::parse("mint instructions").is_err());
    }
}
