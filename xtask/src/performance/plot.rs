//! Bar charts as SVG, written by hand: the same figures give the same bytes, so that a plot can be
//! committed and compared like any generated page.

use std::fmt::Write as _;

/// A chart: groups of horizontal bars on one scale.
pub(super) struct Chart<'a> {
    /// Above everything.
    pub(super) title: &'a str,
    /// What the numbers are.
    pub(super) unit: &'a str,
    /// From top to bottom.
    pub(super) groups: Vec<Group>,
}

/// Bars that belong together.
pub(super) struct Group {
    /// To the left of them.
    pub(super) label: String,
    /// Whose, how much, and the least and most of the rounds.
    pub(super) bars: Vec<Bar>,
    /// A line across the group: the target.
    pub(super) mark: Option<f64>,
}

/// One bar.
pub(super) struct Bar {
    /// In the legend.
    pub(super) series: &'static str,
    /// Its length.
    pub(super) value: f64,
    /// Its whisker.
    pub(super) spread: Option<[f64; 2]>,
}

/// Colours that are told apart without red and green.
const SERIES: [(&str, &str); 8] = [
    ("countersign", "#0b6e99"),
    ("Envoy", "#e08214"),
    ("HAProxy", "#9e9ac8"),
    ("nginx", "#bdbdbd"),
    ("met", "#0b6e99"),
    ("missed", "#e08214"),
    ("before", "#bdbdbd"),
    ("now", "#0b6e99"),
];
const WIDTH: f64 = 860.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 80.0;
const TOP: f64 = 64.0;
const BAR: f64 = 14.0;
const GAP: f64 = 12.0;

/// Draws it.
pub(super) fn svg(chart: &Chart<'_>) -> String {
    let bars: usize = chart.groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + bars as f64 * BAR + chart.groups.len() as f64 * GAP + 8.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{} ({})</text>\n",
        escaped(chart.title),
        escaped(chart.unit)
    );
    legend(&mut out, chart);
    let scale = (WIDTH - LEFT - RIGHT) / longest(chart);
    let mut y = TOP;
    for group in &chart.groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            escaped(&group.label)
        );
        let top = y;
        for bar in &group.bars {
            draw(&mut out, bar, y, scale);
            y += BAR;
        }
        if let Some(mark) = group.mark {
            let x = LEFT + mark * scale;
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#000000\" \
                 stroke-width=\"2\"/>",
                top - 3.0,
                y + 3.0
            );
        }
        y += GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, bar: &Bar, y: f64, scale: f64) {
    let (length, middle) = (bar.value * scale, y + BAR / 2.0);
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/>",
        y + 1.0,
        BAR - 2.0,
        colour(bar.series)
    );
    let mut end = length;
    if let Some([least, most]) = bar.spread {
        end = end.max(most * scale);
        let _ = writeln!(
            out,
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" \
             stroke=\"#444444\"/>",
            LEFT + least * scale,
            LEFT + most * scale
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{}</text>",
        LEFT + end + 4.0,
        middle + 4.0,
        number(bar.value)
    );
}

/// The series that occur, in the order of [`SERIES`].
fn legend(out: &mut String, chart: &Chart<'_>) {
    let mut x = LEFT;
    let occurs = |name: &str| {
        chart.groups.iter().flat_map(|group| &group.bars).any(|bar| bar.series == name)
    };
    for (name, colour) in SERIES.into_iter().filter(|(name, _)| occurs(name)) {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"44\">{name}</text>",
            x + 17.0
        );
        x += 110.0;
    }
    if chart.groups.iter().any(|group| group.mark.is_some()) {
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"33\" y2=\"47\" stroke=\"#000000\" \
             stroke-width=\"2\"/><text x=\"{}\" y=\"44\">target</text>",
            x + 6.0
        );
    }
}

fn longest(chart: &Chart<'_>) -> f64 {
    let bars = chart.groups.iter().flat_map(|group| &group.bars);
    let ends = bars.map(|bar| bar.spread.map_or(bar.value, |[_, most]| most.max(bar.value)));
    let marks = chart.groups.iter().filter_map(|group| group.mark);
    ends.chain(marks).fold(f64::MIN_POSITIVE, f64::max)
}

fn colour(series: &str) -> &'static str {
    SERIES.iter().find(|(name, _)| *name == series).map_or("#000000", |(_, colour)| colour)
}

/// As many digits as say something.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.095 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_its_bars_its_whiskers_and_its_targets() {
        let bar = |series, value| Bar { series, value, spread: Some([value / 2.0, value * 2.0]) };
        let bars = vec![bar("countersign", 10.0), bar("Envoy", 40.0)];
        let group = Group { label: "p < q".into(), bars, mark: Some(20.0) };
        let svg = svg(&Chart { title: "CPU", unit: "us", groups: vec![group] });
        assert!(svg.contains("p &lt; q") && svg.ends_with("</svg>\n"), "{svg}");
        // The longest end, Envoy's whisker at 80, takes the whole width of 530.
        assert!(svg.contains("width=\"66.2\" height=\"12\" fill=\"#0b6e99\""), "{svg}");
        assert!(svg.contains("width=\"265.0\" height=\"12\" fill=\"#e08214\""), "{svg}");
        assert_eq!(svg.matches("stroke=\"#444444\"").count(), 2);
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 2, "the mark and its legend");
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        assert_eq!([12345.6, 45.67, 1.234, 0.0123].map(number), ["12346", "45.7", "1.23", "0.012"]);
    }
}
