//! Where the instructions of a request go, by what they belong to: the profile of the whole path.
//!
//! Callgrind names the function each instruction was compiled into; what the compiler inlined
//! counts as its caller's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{callgrind, path};

/// What is taken apart: without a token, and with one never seen before.
const CASES: [&str; 2] = ["path/h1/no_token/32", "path/h1/fresh_es256/32"];

/// The parts, from the wire inwards.
const PARTS: [(&str, &[&str]); 11] = [
    ("signatures, hashes, ciphers", &["aws_lc_rs", "ring", "untrusted"]),
    ("TLS", &["rustls", "tokio_rustls", "webpki", "rustls_pki_types"]),
    ("HTTP/2", &["h2"]),
    ("HTTP/1", &["hyper", "httparse", "hyper_util", "want"]),
    ("header maps, bytes", &["http", "bytes", "http_body", "http_body_util"]),
    ("runtime", &["tokio", "mio", "futures_util", "futures_core", "parking_lot"]),
    (
        "countersign",
        &[
            "countersign_proxy",
            "countersign_ctxtoken",
            "countersign_policy",
            "countersign_config",
            "countersign_workload_id",
            "countersign_certs_client",
        ],
    ),
    ("JSON, base64", &["serde_json", "serde_core", "base64", "itoa"]),
    ("allocator", &[]),
    ("moving bytes", &[]),
    ("the rest", &[]),
];

/// Of a part of one proxy: instructions per request.
type Shares = BTreeMap<&'static str, f64>;

/// Measures, prints the table and writes it as JSON beside what callgrind left.
///
/// # Errors
/// When a case could not be run.
pub(crate) fn run(proxy: &Path, work: &Path) -> Result<()> {
    let mut profiles: BTreeMap<String, Shares> = BTreeMap::new();
    for case in CASES {
        path::measure(proxy, work, case)?;
        for which in ["a", "b"] {
            profiles.insert(format!("{case}/{which}"), shares(work, case, which)?);
        }
    }
    let out = work.join("profile.json");
    let text = serde_json::to_string_pretty(&profiles)?;
    std::fs::write(&out, text + "\n")
        .with_context(|| format!("could not write {}", out.display()))?;
    print!("{}", table(&profiles));
    Ok(())
}

fn shares(work: &Path, case: &str, which: &str) -> Result<Shares> {
    let folder = work.join(path::folder_of(case, "callgrind"));
    let mut shares: Shares = PARTS.iter().map(|(part, _)| (*part, 0.0)).collect();
    let costs = callgrind::costs(&folder.join(which), 1)?;
    ensure!(!costs.is_empty(), "callgrind left nothing in {}", folder.display());
    for (function, instructions) in costs {
        let share = shares.get_mut(part_of(&function)).context("a part of its own")?;
        *share += instructions as f64 / path::REQUESTS as f64;
    }
    Ok(shares)
}

/// What a function belongs to: that of C by its name, that of Rust by its crate, and a trait's
/// method for a type that has no name by the trait's crate.
fn part_of(function: &str) -> &'static str {
    const C: [(&str, &[&str]); 3] = [
        (
            "allocator",
            &[
                "mi_",
                "malloc",
                "free",
                "realloc",
                "calloc",
                "int_malloc",
                "int_free",
                "int_realloc",
                "unlink_chunk",
                "rustc::__rust_",
                "rustc::__rdl_",
            ],
        ),
        ("moving bytes", &["memcpy", "memmove", "memset", "memcmp", "memchr"]),
        (
            "signatures, hashes, ciphers",
            &[
                "aws_lc",
                "aesni",
                "aes_",
                "gcm_",
                "bignum_",
                "p256_",
                "ecp_",
                "ec_",
                "copy_conditional",
                "sha",
                "edwards25519",
                "curve25519",
                "ed25519",
                "x25519",
                "fiat_",
            ],
        ),
    ];
    let name = function.trim_start_matches('_');
    for (part, starts) in C {
        if starts.iter().any(|start| name.starts_with(start)) {
            return part;
        }
    }
    crates_of(function).find_map(part_of_crate).unwrap_or("the rest")
}

/// The crates a name mentions, in order: `<a::B as c::D<e::F>>::g` is of `a`, else of `c`.
fn crates_of(function: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let paths = function.split(move |c: char| !is_word(c) && c != ':');
    paths.filter_map(|path| path.split_once("::").map(|(first, _)| first))
}

fn part_of_crate(name: &str) -> Option<&'static str> {
    PARTS.iter().find(|(_, crates)| crates.contains(&name)).map(|(part, _)| *part)
}

fn table(profiles: &BTreeMap<String, Shares>) -> String {
    let mut out = format!("{:32}", "user-space instructions per request");
    let columns: Vec<(&String, &Shares)> = profiles.iter().collect();
    for (name, _) in &columns {
        let _ = write!(out, " {:>28}", name.trim_start_matches("path/"));
    }
    out.push('\n');
    for (part, _) in PARTS {
        let _ = write!(out, "{part:35}");
        for (_, shares) in &columns {
            let _ = write!(out, " {:>28.0}", shares.get(part).copied().unwrap_or_default());
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_belong_to_their_crate() {
        for (function, part) in [
            ("h2::proto::connection::Connection<T,P,B>::poll", "HTTP/2"),
            ("<E as hyper::rt::bounds::h2_client::Http2ClientConnExec<B,T>>::execute", "HTTP/1"),
            (
                "<countersign_proxy::a::C as countersign_proxy::h::E>::handle::{{closure}}",
                "countersign",
            ),
            ("<core::pin::Pin<P> as core::future::future::Future>::poll", "the rest"),
            ("__memcpy_avx_unaligned_erms", "moving bytes"),
            ("_mi_page_malloc_zero", "allocator"),
            ("_int_free", "allocator"),
            ("__ecp_nistz256_mul_montq", "signatures, hashes, ciphers"),
            ("serde_json::read::SliceRead::skip_to_escape", "JSON, base64"),
            ("__rustc::__rust_alloc", "allocator"),
            ("aws_lc_0_47_0_sha256_block_data_order_avx", "signatures, hashes, ciphers"),
            ("epoll_wait", "the rest"),
        ] {
            assert_eq!(part_of(function), part, "{function}");
        }
    }
}
