//! Keys in PKCS#11 tokens: smart cards, HSMs, TPMs, and anything behind `p11-kit server`.
//!
//! The module (a shared library somebody else wrote) is called only by the token's own threads; the
//! data path waits for them no longer than its budget. Sessions belong to those threads, sessions
//! that were lost are opened again, and a PIN that was refused is not tried a second time.
//!
//! Invariant: no private key is read out of a token, ever: new ones are made sensitive and not
//! extractable. A module that runs inside this process can still bring its keys into our memory,
//! which is said at start ([`module::is_elsewhere`]).

mod find;
mod generate;
mod module;
mod patience;
mod pin;
mod pool;
mod token;
mod trouble;

pub use token::Token;
