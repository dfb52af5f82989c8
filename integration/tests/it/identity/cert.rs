//! `countersign cert`: what it says of files, sockets and live peers.
