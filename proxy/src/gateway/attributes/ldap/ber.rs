//! The little of BER that LDAP needs (RFC 4511 §5.1: definite lengths only).
//!
//! Pure; lengths are checked before anything is taken, and nothing is ever taken beyond the input.

/// Universal tags.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// Appends one element.
pub(super) fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let length = content.len();
    if let Ok(short) = u8::try_from(length)
        && short < 0x80
    {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let used = bytes.iter().skip_while(|byte| **byte == 0).count();
        out.push(0x80 | u8::try_from(used).unwrap_or(8));
        out.extend(bytes.iter().skip(bytes.len() - used));
    }
    out.extend_from_slice(content);
}

/// Appends an integer that is not negative.
pub(super) fn put_number(out: &mut Vec<u8>, tag: u8, number: u32) {
    let mut bytes = vec![0];
    bytes.extend(number.to_be_bytes());
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let from = bytes.get(zeros).map_or(4, |first| if *first < 0x80 { zeros } else { zeros - 1 });
    put(out, tag, bytes.get(from..).unwrap_or(&[0]));
}

/// How long the element at the front is, header included; `None`: more bytes are needed.
///
/// # Errors
/// When it is none of a form that LDAP permits, or longer than `max`.
pub(super) fn length(bytes: &[u8], max: usize) -> Result<Option<usize>, &'static str> {
    let Some((_, header, length)) = head(bytes)? else { return Ok(None) };
    let whole = header.checked_add(length).filter(|whole| *whole <= max);
    whole.map(Some).ok_or("an element is too long")
}

/// Tag, length of the header, length of the content.
fn head(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, &'static str> {
    let (Some(tag), Some(first)) = (bytes.first(), bytes.get(1)) else { return Ok(None) };
    if tag & 0x1f == 0x1f {
        return Err("a tag of several bytes");
    }
    if *first < 0x80 {
        return Ok(Some((*tag, 2, usize::from(*first))));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return Err("a length of no definite form");
    }
    let Some(long) = bytes.get(2..2 + count) else { return Ok(None) };
    let length = long.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    Ok(Some((*tag, 2 + count, length)))
}

/// Takes elements from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

impl<'b> Reader<'b> {
    /// The next element; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'b [u8])>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (tag, header, length) = head(self.0)?.ok_or("an element is cut off")?;
        let end = header.checked_add(length).ok_or("an element is too long")?;
        let content = self.0.get(header..end).ok_or("an element is cut off")?;
        self.0 = self.0.get(end..).unwrap_or_default();
        Ok(Some((tag, content)))
    }

    /// The next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<&'b [u8], &'static str> {
        match self.next()? {
            Some((found, content)) if found == tag => Ok(content),
            Some(_) | None => Err("an element is missing"),
        }
    }

    /// A number that is not negative.
    pub(super) fn number(&mut self, tag: u8) -> Result<u32, &'static str> {
        let content = self.expect(tag)?;
        if content.is_empty() || content.len() > 5 || content.first().is_some_and(|b| *b >= 0x80) {
            return Err("a number is out of range");
        }
        let number = content.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        u32::try_from(number).map_err(|_| "a number is out of range")
    }
}
