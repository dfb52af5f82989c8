//! The files behind the documents in force, as far as their metadata tells one state from another.
//! Stamps are taken before a file is read, so that a change meanwhile is seen at the next look.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use countersign_config::{ProxyConfig, document_files};
use countersign_policy::Documents;
use countersign_policy::doc::{
    DestinationPeer, FederatedBundle, FileRef, IssuerJwks, SvidBundle, TlsRoots,
};

/// Change of a file as far as its metadata shows; `None` if it is not there.
type Stamp = Option<(SystemTime, u64)>;

/// The documents that a process reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentFiles(Vec<(PathBuf, Stamp)>);

/// Everything whose change means that the documents are read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    documents: DocumentFiles,
    /// Key sets, bundles and roots that the documents refer to; their change counts like a document's.
    keys: Vec<(PathBuf, Stamp)>,
}

impl DocumentFiles {
    /// What the `ProxyConfig` in `file` names; nothing where it cannot be read, which whoever loads
    /// it will say.
    pub fn of_file(file: &Path) -> DocumentFiles {
        let config = ProxyConfig::load_alone(file);
        config.map_or(DocumentFiles(Vec::new()), |config| DocumentFiles::of(&config))
    }

    /// What a process reads now.
    pub fn of(config: &ProxyConfig) -> DocumentFiles {
        DocumentFiles(stamps(document_files(&config.documents).unwrap_or_default()))
    }

    /// With what `documents`, which were read from them, refer to.
    pub fn with(self, documents: &Documents) -> Seen {
        Seen { documents: self, keys: stamps(key_files(documents)) }
    }
}

fn stamps(files: Vec<PathBuf>) -> Vec<(PathBuf, Stamp)> {
    let stamped = |file: PathBuf| {
        let stamp = stamp(&file);
        (file, stamp)
    };
    files.into_iter().map(stamped).collect()
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn key_files(documents: &Documents) -> Vec<PathBuf> {
    let mesh = &documents.mesh;
    let foreign = mesh.federation.iter().flat_map(|entry| &entry.context.issuers);
    let issuers = mesh.issuers.iter().chain(foreign);
    let keys = issuers.filter_map(|issuer| match &issuer.jwks {
        Some(IssuerJwks::File(file)) => Some(file),
        Some(IssuerJwks::Destination { .. }) | None => None,
    });
    let roots = documents.destinations.iter().filter_map(|named| match &named.spec.peer {
        DestinationPeer::Tls { roots: TlsRoots::File(file), .. } => Some(file),
        DestinationPeer::Tls { roots: TlsRoots::System, .. } | DestinationPeer::Mesh { .. } => None,
    });
    let bundles = mesh.federation.iter().filter_map(|entry| match &entry.bundle {
        FederatedBundle::File(file) => Some(file),
        FederatedBundle::Source | FederatedBundle::Endpoint(_) => None,
    });
    let gateways = documents.gateways.iter();
    let callers = gateways.filter_map(|named| named.spec.callers.jwt_svid.as_ref());
    let tokens = callers.filter_map(|callers| match &callers.bundle {
        SvidBundle::File(file) => Some(file),
        SvidBundle::Source => None,
    });
    keys.chain(roots).chain(bundles).chain(tokens).map(FileRef::resolve).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const CONFIG: &str = "\
apiVersion: countersign.dev/v1alpha1
kind: ProxyConfig
metadata: {name: a}
spec:
  identity: {source: {files: {certificate: c.pem, key: k.pem, bundle: b.pem}}}
  namespace: shop
  labels: {app: orders}
  documents: {files: [documents]}
  listeners: {inbound: [{address: 127.0.0.1:8443}]}
  app: [{port: 8443, address: 127.0.0.1:8080}]
";
    const MESH: &str = "\
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: prod.example.com
  context:
    issuers:
      - id: spiffe://prod.example.com/ns/edge/sa/gateway
        keys: jwks
        jwks: {file: keys.json}
        allow: {origin: [user], sub: [anon]}
";

    /// A folder with a configuration, one document and the key set it refers to.
    pub(in crate::reload) fn folder() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("documents")).unwrap();
        fs::write(folder.path().join("documents/mesh.yaml"), MESH).unwrap();
        fs::write(folder.path().join("documents/keys.json"), "{}").unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, CONFIG).unwrap();
        (folder, file)
    }

    /// What a process that starts has seen, with `meanwhile` between its stamps and its reading; and
    /// whether its first look finds a change.
    fn first_look_reads_again(meanwhile: impl FnOnce(&Path)) -> bool {
        let (folder, file) = folder();
        let stamped = DocumentFiles::of_file(&file);
        meanwhile(&folder.path().join("documents"));
        let (config, documents) =
            ProxyConfig::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        let seen = stamped.with(&documents);
        assert_eq!((seen.documents.0.len(), seen.keys.len()), (1, 1), "{seen:?}");
        seen != DocumentFiles::of(&config).with(&documents)
    }

    #[test]
    fn what_has_not_changed_since_it_was_first_read_is_not_read_again() {
        assert!(!first_look_reads_again(|_| {}));
    }

    #[test]
    fn a_change_while_documents_are_first_read_is_seen_at_the_first_look() {
        let longer =
            |folder: &Path| fs::write(folder.join("mesh.yaml"), format!("{MESH}\n")).unwrap();
        assert!(first_look_reads_again(longer));
    }

    #[test]
    fn a_change_of_a_file_that_documents_refer_to_is_seen() {
        let (folder, file) = folder();
        let (config, documents) = ProxyConfig::load(&file).unwrap();
        let seen = DocumentFiles::of_file(&file).with(&documents);
        fs::write(folder.path().join("documents/keys.json"), "{\"keys\": []}").unwrap();
        assert_ne!(seen, DocumentFiles::of(&config).with(&documents));
        fs::remove_file(folder.path().join("documents/keys.json")).unwrap();
        assert_ne!(seen, DocumentFiles::of(&config).with(&documents));
    }
}
