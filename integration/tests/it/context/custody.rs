//! The path of a token: records, certificates, what each depth accepts.
