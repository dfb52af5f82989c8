//! The redirect: what `countersign-proxy init` installs, and that the proxy notices when it is gone.
