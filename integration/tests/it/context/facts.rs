//! Devices, proxies that vouch, validators and directories at the edge.
