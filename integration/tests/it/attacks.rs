//! What attackers do, against the running programs. The names are those of the threat model;
//! attacks that need no process are beside the code they attack.

mod edge;
mod identity;
mod leaks;
mod responses;
mod tokens;
mod transport;
