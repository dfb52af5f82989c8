//! What attackers do, against the running programs. The names are those of the threat model;
//! attacks that need no process are beside the code they attack.

mod bypass;
mod confusion;
mod crypto;
mod deputy;
mod edge;
mod floods_http;
mod impostors;
mod jose;
mod kubernetes;
mod leaks;
mod local;
mod outliving;
mod responses;
mod svids;
mod tokens;
mod transport;
