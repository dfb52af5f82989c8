//! Credentials in files that somebody else writes and replaces.
//!
//! Invariant: read again at every use, never kept, never printed.

use std::{fs::File, io::Read as _, path::Path};

use zeroize::Zeroizing;

/// Bytes of a file with a token or an id.
const CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;

/// A token or id, without the line end; or the file and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let failed = |problem: &str| format!("{}: {problem}", path.display());
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(CREDENTIAL_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| failed(&error.to_string()))?;
    let word = text.trim();
    if word.is_empty() {
        return Err(failed("it is empty"));
    }
    if !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed("it is more than one word of ASCII"));
    }
    Ok(Zeroizing::new(word.to_owned()))
}
