//! Parameters of requests: PascalCase names, lists as repeated names.

/// Names and values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(Vec<(&'static str, String)>);

impl Fields {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a field, if there is a value.
    pub(super) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.0.extend(value.map(|it| (name, it.to_string())));
        self
    }

    /// Adds a field for each value.
    pub(super) fn all(mut self, name: &'static str, values: impl IntoIterator<Item = impl ToString>) -> Self {
        self.0.extend(values.into_iter().map(|it| (name, it.to_string())));
        self
    }

    pub(super) fn encoded(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }

    pub(super) fn as_query(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!("?{}", self.encoded()) }
    }
}
