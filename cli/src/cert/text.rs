//! A report in plain words.

use std::fmt::{Result, Write as _};

use super::{
    peer::ClientCertificate,
    report::{Fix, Kind, LocationFacts, Report},
};

impl Report {
    /// For people.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_facts(&mut out);
        let _ = self.write_certificates(&mut out);
        let _ = self.write_problems(&mut out);
        out
    }

    /// Yes or no, for people.
    pub(super) fn to_answer(&self) -> String {
        let who = self.spiffe_id.as_deref().unwrap_or("no SPIFFE ID");
        let mut out = match self.problems.is_empty() {
            true => {
                let left = time_left(self.seconds_left.unwrap_or_default());
                let trust = self.trust.as_deref().unwrap_or_default();
                format!("yes: {who}, {trust}, for another {left}\n")
            }
            false => format!("no: {who}\n"),
        };
        if !self.problems.is_empty() {
            let _ = self.write_problems(&mut out);
        }
        out
    }

    fn write_facts(&self, out: &mut String) -> Result {
        match (self.kind == Kind::TrustBundle, &self.spiffe_id) {
            (true, _) => writeln!(out, "trust bundle")?,
            (false, Some(id)) => writeln!(out, "{id}")?,
            (false, None) => writeln!(out, "no SPIFFE ID")?,
        }
        writeln!(out, "  from       {}", self.source)?;
        if let Some(peer) = &self.peer {
            let protocol = peer.alpn.as_deref().unwrap_or("no protocol agreed");
            let group = peer.group.as_deref().unwrap_or("-");
            writeln!(out, "  live       {}, {}, {group}, {protocol}", peer.tls, peer.cipher)?;
            writeln!(out, "  client     {}", client_words(&peer.client_certificate))?;
        }
        if let Some(left) = self.seconds_left {
            let used = self.used_percent.unwrap_or(100);
            let late = if self.is_late() { ", it should have been replaced by now" } else { "" };
            writeln!(out, "  time left  {} ({used} % of its life is over{late})", time_left(left))?;
        }
        let location = self.location.as_ref().map(LocationFacts::words);
        let lines = [
            ("trust", &self.trust),
            ("expected", &self.expected),
            ("issued to", &location),
            ("key", &self.private_key),
            ("config", &self.config),
        ];
        for (name, text) in lines {
            if let Some(text) = text {
                writeln!(out, "  {name:<9}  {text}")?;
            }
        }
        Ok(())
    }

    fn write_certificates(&self, out: &mut String) -> Result {
        for (index, certificate) in self.certificates.iter().enumerate() {
            let role = match (certificate.authority, index) {
                (true, _) => "authority",
                (false, 0) => "leaf",
                (false, _) => "not an authority",
            };
            writeln!(out, "  [{index}] {role}, {}", certificate.key)?;
            let subject =
                if certificate.subject.is_empty() { "(empty)" } else { &certificate.subject };
            writeln!(out, "      subject  {subject}")?;
            writeln!(out, "      issuer   {}", certificate.issuer)?;
            if !certificate.names.is_empty() {
                writeln!(out, "      names    {}", certificate.names.join(", "))?;
            }
            writeln!(
                out,
                "      valid    {} to {}",
                certificate.not_before, certificate.not_after
            )?;
            writeln!(out, "      serial   {}", certificate.serial)?;
            writeln!(out, "      sha256   {}", certificate.sha256)?;
        }
        Ok(())
    }

    fn write_problems(&self, out: &mut String) -> Result {
        if self.problems.is_empty() {
            return writeln!(out, "no problems");
        }
        writeln!(out, "problems:")?;
        for problem in &self.problems {
            writeln!(out, "  {}: {}", problem.reason, problem.text)?;
            for Fix { at, with } in &problem.fixes {
                writeln!(out, "      {at:<14}  {with}")?;
            }
        }
        Ok(())
    }
}

fn client_words(certificate: &ClientCertificate) -> String {
    match certificate {
        ClientCertificate::NotAsked => "not asked for a certificate: it takes anybody".to_owned(),
        ClientCertificate::Accepted { presented: true } => {
            "asked for a certificate, accepted ours".to_owned()
        }
        ClientCertificate::Accepted { presented: false } => {
            "asked for a certificate, went on without one".to_owned()
        }
        ClientCertificate::Refused { presented: true, alert } => {
            format!("asked for a certificate, refused ours ({alert})")
        }
        ClientCertificate::Refused { presented: false, alert } => format!(
            "asked for a certificate, refuses who has none ({alert}), as a sidecar must; \
             --present shows it one"
        ),
    }
}

/// A span in the largest unit that keeps it readable.
pub(super) fn time_left(seconds: i64) -> String {
    let words = |seconds: i64| match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    if seconds < 0 { format!("none, it ended {} ago", words(-seconds)) } else { words(seconds) }
}
