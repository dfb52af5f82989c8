//! Harness of the end-to-end tests: the built programs as processes, and everything around them.
//!
//! A test makes a [`Lab`]: a folder, a certificate authority and documents. It starts proxies and
//! [`App`]s in it and talks to them through [`client`]s, as curl, as an app or as a hostile peer.
//! [`World`] is the ready-made mesh of the demo: authority, issuer, gateway and two services.
//! [`netns`] has pods: network namespaces with redirected traffic, over IPv4 and IPv6.
//!
//! Invariant: a process never outlives the test run, and whatever a test waits for is a condition
//! with a deadline, never a fixed time.

pub mod app;
pub mod bytes;
pub mod client;
pub mod components;
pub mod documents;
pub mod duo;
pub mod failing_authority;
pub mod h2raw;
pub mod hold;
pub mod kubelet_writer;
pub mod lab;
pub mod load;
pub mod memory;
pub mod netns;
pub mod openssl;
pub mod outcome;
pub mod pair;
pub mod pki;
pub mod ports;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod raw_app;
pub mod row;
pub mod shop;
pub mod tls;
pub mod token;
pub mod token_service;
pub mod wait;
pub mod workload_api;
pub mod world;

pub use app::{App, Seen};
pub use bytes::BytesApp;
pub use client::{Conn, Reply};
pub use documents::Mesh;
pub use duo::Duo;
pub use lab::Lab;
pub use pair::Pair;
pub use pki::{Authority, Leaf};
pub use process::Process;
pub use proxy::Proxy;
pub use raw_app::RawApp;
pub use row::Row;
pub use shop::Shop;
pub use token::Tokens;
pub use world::World;
