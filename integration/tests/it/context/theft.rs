//! A token stolen at every depth, with a valid certificate and a stolen key.
