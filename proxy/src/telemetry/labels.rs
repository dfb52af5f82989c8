//! The closed label sets of metrics, shared with the audit record.
//!
//! A set knows its size, so a table of counters is an array and counting is an index, not a
//! lookup. Sets combine: `(Direction, Protocol)` is a set of nine.

/// A closed set of label values.
pub trait Label: Copy {
    /// How many values the set has.
    const COUNT: usize;

    /// The position of this value, below [`Label::COUNT`].
    fn index(self) -> usize;

    /// Appends the texts of the value at `index`.
    fn write_texts(index: usize, texts: &mut Vec<&'static str>);
}

macro_rules! label_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The text used in metrics, records and logs.
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl Label for $name {
            const COUNT: usize = $name::ALL.len();

            fn index(self) -> usize {
                self as usize
            }

            fn write_texts(index: usize, texts: &mut Vec<&'static str>) {
                texts.push($name::ALL.get(index).map_or("", |value| value.text()));
            }
        }
    };
}

label_set! {
    /// The direction a request or connection takes through this proxy.
    Direction {
        /// From another sidecar to this workload.
        Inbound => "inbound",
        /// From this workload to another.
        Outbound => "outbound",
        /// From outside the mesh.
        Gateway => "gateway",
    }
}

label_set! {
    /// A call of the local API.
    LocalCall {
        /// Puts the work of a context aside.
        Defer => "defer",
        /// Takes it up again.
        Resume => "resume",
        /// Begins work of the workload itself.
        Begin => "begin",
        /// Ends a context early.
        End => "end",
        /// No call of the API.
        Unknown => "unknown",
    }
}

label_set! {
    /// The protocol a request arrived in.
    Protocol {
        /// HTTP/1.0 or HTTP/1.1.
        Http1 => "http1",
        /// HTTP/2.
        Http2 => "http2",
        /// gRPC, which is HTTP/2 with its own status.
        Grpc => "grpc",
    }
}

label_set! {
    /// The way bytes of an opaque connection take, as whoever opened it sees it.
    Flow {
        /// From the client.
        Received => "received",
        /// To the client.
        Sent => "sent",
    }
}

label_set! {
    /// The range a port is in (RFC 6335 §6).
    PortClass {
        /// Below 1024.
        System => "system",
        /// Below 49152.
        User => "user",
        /// The rest.
        Dynamic => "dynamic",
    }
}

impl PortClass {
    /// The range of a port.
    pub fn of(port: u16) -> PortClass {
        match port {
            0..1_024 => PortClass::System,
            1_024..49_152 => PortClass::User,
            49_152.. => PortClass::Dynamic,
        }
    }
}

label_set! {
    /// The class of a response status.
    StatusClass {
        /// 1xx.
        Informational => "1xx",
        /// 2xx.
        Success => "2xx",
        /// 3xx.
        Redirection => "3xx",
        /// 4xx.
        ClientError => "4xx",
        /// 5xx.
        ServerError => "5xx",
        /// The request ended without a response.
        NoResponse => "none",
    }
}

impl StatusClass {
    /// The class of an HTTP status code.
    pub fn of(status: u16) -> StatusClass {
        match status {
            100..=199 => StatusClass::Informational,
            200..=299 => StatusClass::Success,
            300..=399 => StatusClass::Redirection,
            400..=499 => StatusClass::ClientError,
            500..=599 => StatusClass::ServerError,
            _ => StatusClass::NoResponse,
        }
    }
}

label_set! {
    /// What was decided.
    Verdict {
        /// The request may pass.
        Allow => "allow",
        /// The request may not pass.
        Deny => "deny",
    }
}

label_set! {
    /// What the cache of verified tokens had to say.
    CacheUse {
        /// The token was verified earlier.
        Hit => "hit",
        /// The token was verified now.
        Miss => "miss",
    }
}

label_set! {
    /// How the context of an outbound request was found.
    Lookup {
        /// By the handle the app copied.
        Handle => "handle",
        /// By the trace the app continued.
        Traceparent => "traceparent",
        /// By a token the app holds itself.
        Token => "token",
        /// The request refers to no context.
        None => "none",
        /// The handle is not, or no longer, known.
        UnknownHandle => "unknown_handle",
        /// The token is not, or no longer, one of a request of this pod.
        UnknownToken => "unknown_token",
        /// The trace or the token belongs to more than one context.
        Ambiguous => "ambiguous",
        /// Handle and trace point at different contexts.
        Mismatch => "mismatch",
    }
}

label_set! {
    /// Where a reserved field was found and removed.
    RemovedFrom {
        /// The request head.
        Header => "header",
        /// Request or response trailers.
        Trailer => "trailer",
        /// The response head.
        Response => "response",
    }
}

impl Label for () {
    const COUNT: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn write_texts(_index: usize, _texts: &mut Vec<&'static str>) {}
}

impl<A: Label, B: Label> Label for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn write_texts(index: usize, texts: &mut Vec<&'static str>) {
        A::write_texts(index / B::COUNT, texts);
        B::write_texts(index % B::COUNT, texts);
    }
}

impl<A: Label, B: Label, C: Label> Label for (A, B, C) {
    const COUNT: usize = A::COUNT * B::COUNT * C::COUNT;

    fn index(self) -> usize {
        ((self.0, self.1), self.2).index()
    }

    fn write_texts(index: usize, texts: &mut Vec<&'static str>) {
        <((A, B), C)>::write_texts(index, texts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_combined_set_numbers_every_combination_once() {
        type Key = (Direction, Protocol, StatusClass);
        let mut seen = vec![false; Key::COUNT];
        for &direction in Direction::ALL {
            for &protocol in Protocol::ALL {
                for &class in StatusClass::ALL {
                    let index = (direction, protocol, class).index();
                    let mut texts = Vec::new();
                    Key::write_texts(index, &mut texts);
                    assert_eq!(texts, [direction.text(), protocol.text(), class.text()]);
                    assert!(!std::mem::replace(&mut seen[index], true));
                }
            }
        }
        assert!(seen.into_iter().all(|was_seen| was_seen));
    }
}
