//! The one page for a browser: what was decided lately, each with a link to its reason.
//!
//! Static HTML without scripts. Every value from outside passes [`escape`].

use std::fmt::Write;

/// The style sheet, served beside the page.
pub(super) const STYLE: &str = "\
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
h1 { font-size: 1.2rem } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #ddd }
td { font-family: ui-monospace, monospace; font-size: 12px; overflow-wrap: anywhere }
.deny { color: #a40000 } .allow { color: #1b6e1b } .missing { background: #fff3cd; padding: .5rem }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } th, td { border-color: #444 } a { color: #8ab4f8 }
  .deny { color: #ff8080 } .allow { color: #7ed67e } .missing { background: #4a3b00 }
}
";

/// One line of the table.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) time: String,
    pub(super) verdict: String,
    pub(super) denied: bool,
    pub(super) direction: &'static str,
    pub(super) caller: String,
    pub(super) request: String,
    pub(super) decided_by: String,
}

/// The page.
pub(super) fn index(rows: impl Iterator<Item = Row>, missing: &[String], now: &str) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>countersign: recent decisions</title>\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body>\
         <h1>Recent decisions</h1>",
    );
    // Writing to a String cannot fail, here and below.
    for missing in missing {
        _ = write!(page, "<p class=\"missing\">not ready: {}</p>", escape(missing));
    }
    _ = write!(
        page,
        "<p>As of {}. Denials are all kept for a while, permitted requests are sampled. \
         <a href=\"/api/v1/status\">status</a> · <a href=\"/api/v1/decisions\">as JSON</a></p>\
         <table><thead><tr><th>time</th><th>decision</th><th>direction</th><th>caller</th>\
         <th>request</th><th>decided by</th><th></th></tr></thead><tbody>",
        escape(now)
    );
    for row in rows {
        let class = if row.denied { "deny" } else { "allow" };
        _ = write!(
            page,
            "<tr><td>{}</td><td class=\"{class}\">{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td><a href=\"/api/v1/why/{}?format=text\">why</a></td></tr>",
            escape(&row.time),
            escape(&row.verdict),
            row.direction,
            escape(&row.caller),
            escape(&row.request),
            escape(&row.decided_by),
            escape(&row.id),
        );
    }
    page.push_str("</tbody></table></body></html>\n");
    page
}

/// A text that cannot be read as markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
