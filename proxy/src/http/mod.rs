//! HTTP shared by the three directions: head check, hygiene, translation, bodies, refusals.

pub mod body;
pub mod certs;
pub mod deadline;
pub mod gathered;
pub mod head;
pub mod hygiene;
pub mod lasting;
mod nap;
pub mod problem;
pub mod request;
pub mod serve;
pub mod streams;
pub mod token_parts;
pub mod translate;
pub mod upgrade;
