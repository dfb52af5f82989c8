//! The form of a token exchange (RFC 8693), encoded. Pure.

/// Parameters in the making.
#[derive(Default)]
pub(super) struct Form(String);

impl Form {
    /// What every exchange has; `audience` is our trust domain.
    pub(super) fn exchange(audience: &str) -> Form {
        let mut form = Form::default();
        form.add("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
        form.add("audience", audience);
        form
    }

    /// Adds a parameter.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(char::from(byte));
                }
                other => self.0.push_str(&format!("%{other:02X}")),
            }
        }
    }

    /// The body.
    pub(super) fn into_body(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_could_mean_something_is_escaped() {
        let mut form = Form::exchange("prod.example.com");
        form.add("request_context", r#"{"a":"ü &=+%"}"#);
        assert_eq!(
            form.into_body(),
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
             &audience=prod.example.com\
             &request_context=%7B%22a%22%3A%22%C3%BC%20%26%3D%2B%25%22%7D"
        );
    }
}
