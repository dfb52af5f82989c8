//! The table: one row per line of the story, printed as it happens, with notes below a row.

use std::io::{IsTerminal as _, Write as _};

use countersign_config::env;

const HEADS: [&str; 6] = ["#", "tried", "expected", "happened", "decided by", "decision id"];
const WIDTHS: [usize; 6] = [2, 28, 26, 26, 24, 26];
const GAP: &str = "  ";

/// One line of the story.
#[derive(Debug)]
pub(super) struct Line {
    /// What was tried.
    pub(super) tried: &'static str,
    /// What has to happen, in the same words as what happened.
    pub(super) expected: &'static str,
    /// What happened.
    pub(super) happened: String,
    /// The proxy, and the rule or stage, that decided.
    pub(super) decided_by: String,
    /// The decision id, if there is one.
    pub(super) id: Option<String>,
    /// Shown below the row.
    pub(super) notes: Vec<String>,
}

impl Line {
    /// Whether what happened is what was expected.
    pub(super) fn is_as_expected(&self) -> bool {
        self.expected == self.happened
    }
}

/// Prints rows.
#[derive(Debug)]
pub(super) struct Table {
    colour: bool,
}

impl Table {
    /// A table on standard output, with its head printed.
    pub(super) fn start() -> Table {
        let table = Table { colour: std::io::stdout().is_terminal() && !env::NO_COLOR.is_set() };
        let rule = WIDTHS.map(|width| "-".repeat(width)).join(GAP);
        table.print(&format!("{}{rule}\n", row(&HEADS.map(str::to_owned))));
        table
    }

    /// Prints one row.
    pub(super) fn line(&self, number: usize, line: &Line) {
        let cells = [
            number.to_string(),
            line.tried.to_owned(),
            line.expected.to_owned(),
            line.happened.clone(),
            line.decided_by.clone(),
            line.id.clone().unwrap_or_else(|| "-".to_owned()),
        ];
        let mut text = row(&cells);
        if !line.is_as_expected() {
            text = self.paint("31", &format!("{text}    NOT AS EXPECTED\n"));
        }
        for note in line.notes.iter().flat_map(|note| note.lines()) {
            text.push_str(&self.paint("2", &format!("    {note}\n")));
        }
        self.print(&text);
    }

    /// Prints the last line.
    pub(super) fn end(&self, as_expected: usize, all: usize, seconds: f64) {
        let (colour, word) = if as_expected == all { ("32", "all") } else { ("31", "NOT all") };
        let verdict = format!("{as_expected} of {all} as expected ({word}), {seconds:.1} s");
        self.print(&format!("\n{}\n", self.paint(colour, &verdict)));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: &str) {
        // Nobody may be reading any more; the exit code still tells.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// One row, as many lines high as its highest cell.
fn row(cells: &[String; 6]) -> String {
    let mut columns: Vec<_> =
        cells.iter().zip(WIDTHS).map(|(cell, width)| wrap(cell, width).into_iter()).collect();
    let mut text = String::new();
    loop {
        let parts: Vec<_> = columns.iter_mut().map(Iterator::next).collect();
        if parts.iter().all(Option::is_none) {
            return text;
        }
        let padded: Vec<_> = parts
            .into_iter()
            .zip(WIDTHS)
            .map(|(part, width)| format!("{:width$}", part.unwrap_or_default()))
            .collect();
        text.push_str(padded.join(GAP).trim_end());
        text.push('\n');
    }
}

/// Lines of at most `width` characters, broken after blanks, else after `/` and `_`, else anywhere.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let pieces = text.split_inclusive(' ').flat_map(|word| match word.trim_end().chars().count() {
        long if long > width => word.split_inclusive(['/', '_']).collect(),
        _ => vec![word],
    });
    for piece in pieces {
        let used = line.chars().count() + piece.trim_end().chars().count();
        if used > width && !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(piece);
    }
    lines.push(line);
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_at_blanks_and_then_at_slashes() {
        assert_eq!(wrap("403 policy_denied/no_match", 22), ["403", "policy_denied/no_match"]);
        assert_eq!(wrap("shop/own-orders/read-own", 12), ["shop/", "own-orders/", "read-own"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn a_row_is_as_high_as_its_highest_cell() {
        let cells = ["1", "a long sentence that does not fit the column", "b", "c", "d", "e"];
        let text = row(&cells.map(str::to_owned));
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("1   a long sentence"), "{text}");
    }
}
