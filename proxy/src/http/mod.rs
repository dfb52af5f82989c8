//! HTTP hygiene shared by the three directions.

pub mod head;
pub mod hygiene;
pub mod translate;
