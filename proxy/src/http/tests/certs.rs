use super::*;

fn chain(certificates: &[&[u8]]) -> Chain {
    certificates.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

#[test]
fn what_is_written_is_what_is_read() {
    let chains = [chain(&[b"leaf"]), chain(&[b"leaf 2", b"middle", b"upper"])];
    let field = write_chains(chains.iter().map(Vec::as_slice));
    assert_eq!(field, "(:bGVhZg==:), (:bGVhZiAy: :bWlkZGxl: :dXBwZXI=:)");
    assert_eq!(read_chains(field.as_bytes()).unwrap(), chains);

    let thumbprints = [[0xfb; 32], [7; 32]];
    let field = write_thumbprints(&thumbprints);
    assert_eq!(read_thumbprints(field.as_bytes()).unwrap(), thumbprints);
}

#[test]
fn what_does_not_fit_is_left_out_and_can_be_asked_for() {
    let big = chain(&[&[1; 3 * 1024]]);
    let field = write_chains(std::iter::repeat_n(big.as_slice(), 8));
    assert!(field.len() <= limits::HOP_CERTS_BYTES_MAX, "{}", field.len());
    assert_eq!(read_chains(field.as_bytes()).unwrap().len(), 3);
    // One of more than three certificates cannot be sent at all.
    let long = chain(&[b"a", b"b", b"c", b"d"]);
    let small = chain(&[b"a"]);
    let field = write_chains([long.as_slice(), small.as_slice()]);
    assert_eq!(read_chains(field.as_bytes()).unwrap(), std::slice::from_ref(&small));
    let field = write_chains(std::iter::repeat_n(small.as_slice(), 20));
    assert_eq!(read_chains(field.as_bytes()).unwrap().len(), limits::HOPS_MAX);
}

#[test]
fn only_one_spelling_is_read() {
    for field in [
        "",
        ",",
        "(:YQ==:),",
        ":YQ==:",
        "()",
        "(::)",
        "(:YQ==:",
        "(:YQ==:) x",
        "(:YQ==:);a=1",
        "(:YQ==:;a=1)",
        "(:YQ:)",
        "(:YR==:)",
        "(:Y-==:)",
        "(YQ==)",
        "(\"YQ==\")",
        "(:YQ==::YQ==:)",
        "(:YQ==:\t:YQ==:)",
        "(:YQ==: :YQ==: :YQ==: :YQ==:)",
        "((:YQ==:))",
        "(:é:)",
    ] {
        assert!(
            matches!(read_chains(field.as_bytes()), Err(CertsError::Malformed(_))),
            "{field:?}: {:?}",
            read_chains(field.as_bytes())
        );
    }
    let sound = format!("\"{}\"", "A".repeat(43));
    assert!(read_thumbprints(sound.as_bytes()).is_ok());
    for field in [
        String::new(),
        "A".repeat(43),
        format!("\"{}\"", "A".repeat(42)),
        format!("\"{}\"", "A".repeat(44)),
        format!("\"{}B\"", "A".repeat(42)),
        format!("\"{}=\"", "A".repeat(42)),
        format!("{sound};q=1"),
        format!("{sound} {sound}"),
        "(:YQ==:)".to_owned(),
    ] {
        assert!(
            matches!(read_thumbprints(field.as_bytes()), Err(CertsError::Malformed(_))),
            "{field:?}"
        );
    }
}

#[test]
fn bounds_are_looked_at_before_anything_is_decoded() {
    let nine = ["(:YQ==:)"; 9].join(",");
    let too_many =
        CertsError::Malformed("more chains in `Countersign-Certs` than a list has records");
    assert_eq!(read_chains(nine.as_bytes()), Err(too_many));
    let limit = limits::HOP_CERTS_BYTES_MAX;
    let long = format!("(:{}:)", "A".repeat(limit));
    assert_eq!(
        read_chains(long.as_bytes()),
        Err(CertsError::TooLarge { bytes: long.len(), limit })
    );
    let commas = ",".repeat(limit);
    assert_eq!(read_chains(commas.as_bytes()), Err(too_many));
    let nine =
        std::iter::repeat_n(format!("\"{}\"", "A".repeat(43)), 9).collect::<Vec<_>>().join(", ");
    assert_eq!(read_thumbprints(nine.as_bytes()), Err(too_many));
}

/// The corpus of the fuzz target `hop_certs`: each file has its answer.
#[test]
fn the_corpus_of_certificates_replays() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/hop_certs");
    let (mut chains, mut thumbprints) = (Vec::new(), Vec::new());
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let (name, bytes) = (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap());
        let name = name.into_string().unwrap();
        if read_chains(&bytes).is_ok() {
            chains.push(name.clone());
        }
        if read_thumbprints(&bytes).is_ok() {
            thumbprints.push(name);
        }
    }
    chains.sort();
    thumbprints.sort();
    assert_eq!(chains, ["chain", "tabs", "three", "two_chains"]);
    assert_eq!(thumbprints, ["thumbprint", "thumbprints"]);
}
