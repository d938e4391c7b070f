//! The messages that carry sound, recognised in the one form in which their sender writes them: a hundred times a second in
//! every call. Read whole or not at all; any other form goes the long way, through a JSON parser, and means the same.

use memchr::memchr;

/// What is left of a message.
pub(crate) struct Template<'a>(&'a str);

impl<'a> Template<'a> {
    /// A message with escapes or control characters is not for here.
    pub(crate) fn new(text: &'a str) -> Option<Self> {
        // All bytes, without a way out: sixteen at a time.
        let odd = text.bytes().fold(false, |odd, it| odd | (it < b' ') | (it == b'\\'));
        (!odd).then_some(Self(text))
    }

    /// Passes over exactly this.
    pub(crate) fn literal(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Takes a string's content and its closing quote.
    pub(crate) fn string(&mut self) -> Option<&'a str> {
        let (content, rest) = self.0.split_at(memchr(b'"', self.0.as_bytes())?);
        self.0 = &rest[1..];
        Some(content)
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
