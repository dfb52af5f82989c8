//! What a `ContextPolicy` says of devices, and of proxies that vouch for what their headers say.

/// Where the facts about the client's device come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRules {
    /// Tried in this order; the first that knows a device is believed.
    pub sources: Vec<DeviceSource>,
    /// The `AttributeProvider` that is asked about it.
    pub validate: Option<String>,
}

/// One place to learn the device from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSource {
    /// The client's certificate.
    ClientCertificate {
        /// The name in `clientRoots` of the listener that must vouch for it.
        trust_bundle: String,
        /// Which of its names is the device's.
        id: CertificateName,
        /// The tier of all its devices.
        tier: Option<String>,
        /// Whether all its devices are managed.
        managed: Option<bool>,
    },
    /// Headers of a proxy that vouches.
    Header {
        /// The entry of `proxies`.
        proxy: String,
        /// The header with the device's id.
        id: String,
        /// The header with its tier.
        tier: Option<String>,
        /// The header with `true` or `false`.
        managed: Option<String>,
        /// The header with the time of its posture, seconds since 1970.
        at: Option<String>,
    },
    /// Claims of the user's token.
    Claim {
        /// The identity provider.
        provider: String,
        /// The claim with the device's id.
        id: String,
        /// The claim with its tier.
        tier: Option<String>,
        /// The claim that says whether it is managed.
        managed: Option<String>,
    },
}

closed_names! {
    /// Which name of a client certificate.
    CertificateName {
        /// The one common name of the subject.
        CommonName = "commonName",
        /// The one DNS name.
        Dns = "dns",
        /// The one URI.
        Uri = "uri",
    }
}

/// A proxy before this gateway that vouches for what its headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VouchingProxy {
    /// Its name, as in `header:<name>` of tokens.
    pub name: String,
    /// The name in `clientRoots` of the listener that must vouch for its certificate.
    pub trust_bundle: String,
    /// DNS names, one of which its certificate carries.
    pub dns: Vec<String>,
    /// The groups of the user, as it says.
    pub groups: Option<HeaderGroups>,
}

/// Group names in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderGroups {
    /// The header; names are separated by commas.
    pub header: String,
    /// Groups that count; the others are forgotten.
    pub keep: Vec<String>,
}
