//! The memory of a running process, searched for private keys.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};

use crate::pki::Leaf;
use crate::process::Process;

/// The private number of a P-256 key.
///
/// # Panics
/// When the key is of another kind.
pub fn scalar(leaf: &Leaf) -> [u8; 32] {
    // ECPrivateKey: version 1, then an OCTET STRING of 32 bytes.
    let head = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = leaf.key.windows(head.len()).position(|window| window == head).unwrap() + head.len();
    leaf.key[at..at + 32].try_into().unwrap()
}

/// How often a number is in the memory of a process, in either byte order: big numbers are kept as
/// machine words.
///
/// # Panics
/// When the memory cannot be read.
pub fn copies(process: &Process, number: &[u8; 32]) -> usize {
    let id = process.id();
    let mut reversed = *number;
    reversed.reverse();
    let mut memory = File::open(format!("/proc/{id}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
    let (mut found, mut searched) = (0, 0);
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        // Not the pages of the kernel.
        let special = fields.nth(3).is_some_and(|name| name.starts_with("[v"));
        if !rights.starts_with('r') || special {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let place = |text| u64::from_str_radix(text, 16).unwrap();
        memory.seek(SeekFrom::Start(place(from))).unwrap();
        let mut bytes = Vec::new();
        // A mapping that shrank meanwhile gives what is left of it.
        let _ = (&mut memory).take(place(to) - place(from)).read_to_end(&mut bytes);
        searched += bytes.len();
        found += count(&bytes, number) + count(&bytes, &reversed);
    }
    assert!(searched > 1 << 20, "only {searched} bytes could be read");
    found
}

/// Looks for the first byte first: most of a memory is something else.
fn count(bytes: &[u8], number: &[u8; 32]) -> usize {
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == number[0]);
    starts.filter(|(at, _)| bytes[*at..].starts_with(number)).count()
}
