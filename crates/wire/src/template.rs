//! The messages that carry sound, recognised in the one form in which their sender writes them: a hundred times a second in
//! every call. Read whole or not at all; any other form goes the long way, through a JSON parser, and means the same.

use memchr::memchr2;

/// What is left of a message.
pub(crate) struct Template<'a>(pub(crate) &'a str);

impl<'a> Template<'a> {
    /// Passes over exactly this.
    pub(crate) fn literal(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Takes a string's content and its closing quote. One with an escape or a control character is not for here.
    pub(crate) fn string(&mut self) -> Option<&'a str> {
        let end = memchr2(b'"', b'\\', self.0.as_bytes())?;
        let (content, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix('"')?;
        // Bytes below a space, all at once.
        let control = content.bytes().fold(false, |found, it| found | (it < b' '));
        (!control).then_some(content)
    }

    /// Takes a whole number without sign.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let end = self.0.bytes().position(|it| !it.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        // JSON knows no leading zeros.
        if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse().ok() }
    }

    /// Whether nothing is left.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
