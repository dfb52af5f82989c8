//! Every protocol, over IPv4 and IPv6, REDIRECT and TPROXY, with a capture between the pods.
