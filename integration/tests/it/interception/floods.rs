//! Floods and slow peers: memory and CPU stay bounded, others are served.
