//! A real OpenBao.
