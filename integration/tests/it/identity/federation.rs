//! Federated trust domains: bundle endpoints, and listeners that accept foreign peers.
