//! The Prometheus text format, version 0.0.4.
//!
//! Only what we export: counters, gauges, histograms. Label values are escaped here and nowhere
//! else.

use std::fmt::{Display, Write};

use super::names::{Def, Kind};

/// The content type of a scrape.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A scrape under construction.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// Starts a metric: `HELP` and `TYPE`.
    pub fn begin(&mut self, def: &Def) {
        // Writing to a String cannot fail, here and below.
        _ = writeln!(self.text, "# HELP {} {}", def.name, def.help);
        _ = writeln!(self.text, "# TYPE {} {}", def.name, def.kind.text());
    }

    /// One sample; `values` belong to `def.labels` in order.
    pub fn sample(&mut self, def: &Def, values: &[&str], value: impl Display) {
        debug_assert_ne!(def.kind, Kind::Histogram);
        self.line(def, "", values, None, value);
    }

    /// One histogram: `buckets` are (upper bound, count in this bucket alone), the last is `+Inf`.
    pub fn histogram(&mut self, def: &Def, values: &[&str], buckets: &[(&str, u64)], sum: f64) {
        let mut total: u64 = 0;
        for (bound, count) in buckets {
            total = total.saturating_add(*count);
            self.line(def, "_bucket", values, Some(bound), total);
        }
        self.line(def, "_sum", values, None, sum);
        self.line(def, "_count", values, None, total);
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(
        &mut self,
        def: &Def,
        suffix: &str,
        values: &[&str],
        bound: Option<&str>,
        value: impl Display,
    ) {
        debug_assert_eq!(def.labels.len(), values.len(), "{}", def.name);
        self.text.push_str(def.name);
        self.text.push_str(suffix);
        let labels = def.labels.iter().copied().zip(values.iter().copied());
        let labels = labels.chain(bound.map(|bound| ("le", bound)));
        for (position, (name, value)) in labels.enumerate() {
            self.text.push(if position == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.push_escaped(value);
            self.text.push('"');
        }
        if !values.is_empty() || bound.is_some() {
            self.text.push('}');
        }
        _ = writeln!(self.text, " {value}");
    }

    fn push_escaped(&mut self, value: &str) {
        for char in value.chars() {
            match char {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::names;

    #[test]
    fn writes_samples_and_histograms() {
        let mut page = Page::default();
        page.begin(&names::REFUSALS);
        page.sample(&names::REFUSALS, &["inbound", "a\"b\\c\nd"], 3);
        page.begin(&names::REQUEST_DURATION);
        let buckets = [("0.5", 2), ("+Inf", 1)];
        page.histogram(&names::REQUEST_DURATION, &["gateway", "http1", "2xx"], &buckets, 1.5);
        expect_test::expect![[r#"
            # HELP countersign_refusals_total Requests refused, by the reason of the refusal table.
            # TYPE countersign_refusals_total counter
            countersign_refusals_total{direction="inbound",reason="a\"b\\c\nd"} 3
            # HELP countersign_request_duration_seconds Time from the request head to the response head.
            # TYPE countersign_request_duration_seconds histogram
            countersign_request_duration_seconds_bucket{direction="gateway",protocol="http1",status_class="2xx",le="0.5"} 2
            countersign_request_duration_seconds_bucket{direction="gateway",protocol="http1",status_class="2xx",le="+Inf"} 3
            countersign_request_duration_seconds_sum{direction="gateway",protocol="http1",status_class="2xx"} 1.5
            countersign_request_duration_seconds_count{direction="gateway",protocol="http1",status_class="2xx"} 3
        "#]]
        .assert_eq(&page.finish());
    }
}
