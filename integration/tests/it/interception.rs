//! Interception: traffic is redirected into the proxies, in network namespaces that stand for pods,
//! and every protocol a pod speaks goes through both of them.

mod destinations;
mod floods;
pub(crate) mod http;
pub(crate) mod live;
mod matrix;
mod memory;
mod outside;
mod recalled;
mod redirect;
mod rollout;
mod tcp;
mod transparent;
mod upstream;
mod world;
