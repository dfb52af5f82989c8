//! The documents of `docs/context/`: they load as they stand there, a gateway's with the process it is.

use super::*;

const USERS: &str = include_str!("../../../docs/context/users.md");
const PROOFS: &str = include_str!("../../../docs/context/proofs.md");
const DEVICES: &str = include_str!("../../../docs/context/devices.md");
const VALIDATORS: &str = include_str!("../../../docs/context/validators.md");
const DIRECTORY: &str = include_str!("../../../docs/context/directory.md");

const HEAD: &str = "apiVersion: countersign.dev/v1alpha1\n";

/// The YAML blocks of a page.
fn blocks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next())
}

/// What the first block says of a document of this kind, whose other fields the page leaves out.
fn part(page: &str, kind: &str, indent: &str) -> String {
    let block = blocks(page).next().unwrap();
    let heading = format!("# {kind}");
    let lines = block.lines().skip_while(|line| !line.starts_with(&heading)).skip(1);
    let lines: Vec<String> = lines
        .take_while(|line| !line.starts_with("# "))
        .map(|line| format!("{indent}{line}\n"))
        .collect();
    assert!(!lines.is_empty(), "nothing of {kind}");
    lines.concat()
}

/// A mesh of one gateway, with the parts of the three pages in one `ContextPolicy`.
fn gateway() -> Vec<(&'static str, String)> {
    let provider = |page: &'static str| {
        let block = blocks(page).next().unwrap();
        format!("{HEAD}{}", block.split("# ContextPolicy").next().unwrap())
    };
    let mesh = format!(
        "{HEAD}kind: MeshConfig\nmetadata: {{name: default}}\nspec: {{trustDomain: prod.example.com, \
         context: {{issuers: [{{id: \"spiffe://prod.example.com/ns/edge/sa/gateway\", keys: x5c, \
         allow: {{origin: [user], sub: [\"user:*\"], scope: [a]}}}}]}}}}\n---\n\
         {HEAD}kind: Destination\nmetadata: {{name: orders, namespace: shop}}\nspec: {{hosts: [orders.shop], \
         ports: [{{port: 8080, protocol: http}}], endpoints: [{{address: 10.20.3.4, port: 8080}}], \
         peer: {{mesh: {{identities: [\"spiffe://prod.example.com/ns/shop/sa/orders\"]}}}}}}\n"
    );
    let corp = blocks(USERS)
        .next()
        .unwrap()
        .replace("claims:\n", "claims:\n    device_id: {type: string}\n");
    let inventory = format!(
        "{HEAD}kind: AttributeProvider\nmetadata: {{name: inventory}}\nspec:\n  \
         authzen: {{endpoint: \"https://inventory.example.com/\"}}\n  request: {{subject: {{type: user, id: user.id}}, \
         action: use, resource: {{type: device, id: device.id}}}}\n  \
         facts: {{managed: bool, tier: string, at: int}}\n  onUnavailable: refuse\n"
    );
    let policy = format!(
        "{HEAD}kind: ContextPolicy\nmetadata: {{name: edge, namespace: edge}}\nspec:\n  selector: {{all: true}}\n  \
         role: gateway\n{}{}{}",
        part(DEVICES, "ContextPolicy", "  "),
        part(VALIDATORS, "ContextPolicy", "  "),
        part(DIRECTORY, "ContextPolicy", "  "),
    );
    let rule = |name: &str, page| {
        format!(
            "    - name: {name}\n      effect: allow\n      match: {{caller: {{anyOf: [{{namespace: edge, serviceAccount: gateway}}]}}, \
             http: {{paths: [{{template: \"/v1/users/{{user}}/**\"}}]}}}}\n{}",
            part(page, "AccessPolicy", "      ")
        )
    };
    let access = format!(
        "{HEAD}kind: AccessPolicy\nmetadata: {{name: orders, namespace: shop}}\nspec:\n  selector: {{all: true}}\n  \
         direction: inbound\n  resource: {{type: user, owner: {{fromPath: {{template: \"/v1/users/{{user}}/**\", param: user}}}}}}\n  \
         rules:\n{}{}",
        rule("device", DEVICES),
        rule("ticket", VALIDATORS)
    );
    vec![
        ("mesh.yaml", mesh),
        ("corp.yaml", corp),
        ("staff.yaml", provider(DIRECTORY)),
        ("tickets.yaml", provider(VALIDATORS)),
        ("inventory.yaml", inventory),
        ("edge.yaml", policy),
        ("orders.yaml", access),
    ]
}

fn process(folder: &Folder, listeners: &str) -> PathBuf {
    let files = gateway();
    for (name, text) in &files {
        folder.put(name, text);
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let text = spec(&format!(
        "  identity: {{source: {{workloadApi: {{socket: agent.sock}}}}}}\n  namespace: edge\n{listeners}  \
         gateway: {{routes: [{{destination: shop/orders}}]}}\n  documents: {{files: [{}]}}\n",
        names.join(", ")
    ));
    folder.put("gateway.yaml", &text)
}

#[test]
fn the_gateway_of_the_pages_loads() {
    let folder = Folder::new();
    let file = process(&folder, &part(DEVICES, "ProxyConfig", "  "));
    let (config, documents) =
        ProxyConfig::load(&file).unwrap_or_else(|problems| panic!("{}", folder.shown(&problems)));
    let policy = &documents.gateways[0].spec;
    assert_eq!((policy.device.sources.len(), policy.proxies.len()), (3, 1));
    assert!(policy.groups_from.is_some() && policy.justification_kinds.contains_key("ticket"));
    assert_eq!(config.gateway[0].tls.as_ref().unwrap().client_roots.len(), 2);
}

#[test]
fn a_trust_bundle_is_one_of_a_listener() {
    let folder = Folder::new();
    let listeners = part(DEVICES, "ProxyConfig", "  ");
    let file = process(&folder, &listeners.replace("device-ca:", "device-cas:"));
    let problems = ProxyConfig::load(&file).unwrap_err();
    expect![[r#"
        gateway.yaml:6:25 E005: the ContextPolicy names the trust bundle `device-ca`, and no gateway listener has it in `tls.clientRoots` (did you mean `device-cas`?)
    "#]].assert_eq(&folder.shown(&problems));
    let plain = "  listeners: {gateway: [{address: \"[::]:80\"}]}\n";
    let problems = ProxyConfig::load(&process(&folder, plain)).unwrap_err();
    expect![[r#"
        gateway.yaml:6:25 E005: the ContextPolicy names the trust bundle `device-ca`, and no gateway listener has it in `tls.clientRoots` (add `clientRoots: {device-ca: PATH}` to its `tls`)
        gateway.yaml:6:25 E005: the ContextPolicy names the trust bundle `proxies`, and no gateway listener has it in `tls.clientRoots` (add `clientRoots: {proxies: PATH}` to its `tls`)
    "#]].assert_eq(&folder.shown(&problems));
}

#[test]
fn the_identity_providers_of_the_pages_load() {
    let pages = [(USERS, 3), (PROOFS, 1)];
    for (page, expected) in pages {
        let providers = blocks(page).filter(|block| block.contains("\nkind: IdentityProvider\n"));
        let mut seen = 0;
        for block in providers {
            let folder = Folder::new();
            let mesh = format!(
                "{HEAD}kind: MeshConfig\nmetadata: {{name: default}}\nspec: {{trustDomain: prod.example.com}}\n"
            );
            let files = [folder.put("mesh.yaml", &mesh), folder.put("provider.yaml", block)];
            if let Err(problems) = load_documents(&files) {
                panic!("{}\n{block}", folder.shown(&problems));
            }
            seen += 1;
        }
        assert_eq!(seen, expected);
    }
}
