//! A real SPIRE server and agent.
