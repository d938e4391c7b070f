//! Elements, and how they are written.

use std::borrow::Cow;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::Invalid;

/// An XML element: attributes in order, then a text or children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), text: String::new(), children: Vec::new() }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }

    /// Attributes in the order in which they are written.
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.attributes.iter().map(|it| (it.0, it.1.as_str()))
    }

    /// The text inside.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The elements inside.
    pub fn children(&self) -> &[Element] {
        &self.children
    }

    /// Adds an attribute, if there is a value.
    pub(super) fn set(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.attributes.extend(value.map(|it| (name, allowed(&it.to_string()).into_owned())));
        self
    }

    /// Adds an attribute whose value is checked.
    pub(super) fn checked<T: ToString>(
        self,
        name: &'static str,
        value: Option<T>,
        expected: &'static str,
        fits: impl FnOnce(&T) -> bool,
    ) -> Result<Self, Invalid> {
        match value {
            Some(it) if !fits(&it) => Err(Invalid::Attribute { verb: self.name, attribute: name, expected }),
            value => Ok(self.set(name, value)),
        }
    }

    /// Adds an absolute address, if there is one.
    pub(super) fn url(self, name: &'static str, url: Option<&String>) -> Result<Self, Invalid> {
        let url = url.map(|it| absolute(it, "https")).transpose()?;
        Ok(self.set(name, url))
    }

    pub(super) fn containing(mut self, text: &str) -> Self {
        self.text = allowed(text).into_owned();
        self
    }

    pub(super) fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    pub(super) fn refuse(&self, attribute: &'static str, expected: &'static str) -> Invalid {
        Invalid::Attribute { verb: self.name, attribute, expected }
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let attributes = self.attributes.iter().map(|(name, value)| -> (&str, &str) { (name, value) });
        let element = writer.create_element(self.name).with_attributes(attributes);
        if self.children.is_empty() && self.text.is_empty() {
            element.write_empty()?;
        } else {
            element.write_inner_content(|writer| {
                if !self.text.is_empty() {
                    writer.write_event(Event::Text(BytesText::new(&self.text)))?;
                }
                self.children.iter().try_for_each(|it| it.write(writer))
            })?;
        }
        Ok(())
    }
}

/// A document with these verbs.
pub(super) fn document(verbs: &[Element]) -> String {
    let mut writer = Writer::new(Vec::with_capacity(512));
    // Writing to memory cannot fail.
    let written = writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None))).and_then(|()| {
        let inner = |writer: &mut Writer<Vec<u8>>| verbs.iter().try_for_each(|it| it.write(writer));
        writer.create_element("Response").write_inner_content(inner).map(drop)
    });
    debug_assert!(written.is_ok());
    String::from_utf8(writer.into_inner()).expect("only strings were written")
}

pub(super) fn absolute(url: &str, expected: &'static str) -> Result<String, Invalid> {
    let plain = if expected == "wss" { "ws://" } else { "http://" };
    let scheme_fits = url.strip_prefix(expected).is_some_and(|it| it.starts_with("://")) || url.starts_with(plain);
    if scheme_fits && url::Url::parse(url).is_ok() {
        Ok(url.to_owned())
    } else {
        Err(Invalid::NotAbsolute { url: url.to_owned(), expected })
    }
}

/// The text without characters for which XML 1.0 has no spelling.
pub(super) fn allowed(text: &str) -> Cow<'_, str> {
    let forbidden = |it: char| matches!(it, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if text.contains(forbidden) { Cow::Owned(text.replace(forbidden, "")) } else { Cow::Borrowed(text) }
}
