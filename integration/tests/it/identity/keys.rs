//! Private keys that cannot leave their token.
