//! The Kubernetes CSR API and our signer.
