use countersign_policy::doc::LdapSecurity;
use proptest::prelude::*;

use super::*;

fn question(user: &str) -> Question {
    Question { user: Some(user.to_owned()), ..Question::default() }
}

fn wanted(filter: LdapFilter) -> LdapSearch {
    LdapSearch {
        host: "d".to_owned(),
        port: 636,
        security: LdapSecurity::Ldaps,
        roots: None,
        bind: None,
        base: "dc=x".to_owned(),
        filter,
        attribute: "cn".to_owned(),
        keep: vec!["ops".to_owned()],
    }
}

fn member(part: ValuePart) -> LdapFilter {
    let literal = |text: &str| ValuePart::Literal(text.as_bytes().to_vec());
    LdapFilter::Equal("member".to_owned(), vec![literal("uid="), part, literal(",dc=x")])
}

/// The filter of a search request, as the directory reads it.
fn sent(filter: LdapFilter, user: &str) -> Vec<u8> {
    let message = search(7, &wanted(filter), &question(user), (10, 5)).unwrap();
    let mut whole = Reader(&message);
    let mut message = Reader(whole.expect(SEQUENCE).unwrap());
    assert_eq!(message.number(INTEGER).unwrap(), 7);
    let mut operation = Reader(message.expect(SEARCH_REQUEST).unwrap());
    assert_eq!(operation.expect(OCTETS).unwrap(), b"dc=x");
    assert_eq!(operation.number(ENUMERATED).unwrap(), 2);
    assert_eq!(operation.number(ENUMERATED).unwrap(), 0);
    assert_eq!(operation.number(INTEGER).unwrap(), 10);
    assert_eq!(operation.number(INTEGER).unwrap(), 5);
    assert_eq!(operation.expect(BOOLEAN).unwrap(), [0]);
    let rest = operation.0;
    let (tag, content) = operation.next().unwrap().unwrap();
    assert_eq!(operation.next().unwrap().unwrap(), (SEQUENCE, &b"\x04\x02cn"[..]));
    assert!(operation.next().unwrap().is_none(), "{rest:?}");
    [&[tag], content].concat()
}

/// Attribute and value of an equality.
fn equality(filter: &[u8]) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(filter[0], 0xa3);
    let mut reader = Reader(&filter[1..]);
    let pair = (reader.expect(OCTETS).unwrap().to_vec(), reader.expect(OCTETS).unwrap().to_vec());
    assert!(reader.next().unwrap().is_none());
    pair
}

#[test]
fn attack_injects_a_filter_through_the_user_name() {
    let evil = "*)(|(uid=*";
    let plain = LdapFilter::Equal("uid".to_owned(), vec![ValuePart::Of(AskedId::UserId)]);
    let (attribute, value) = equality(&sent(plain, evil));
    assert_eq!((attribute.as_slice(), value.as_slice()), (&b"uid"[..], evil.as_bytes()));
    let evil = "ann,ou=admins+cn=x\\\"<>;=#\0";
    let (_, value) = equality(&sent(member(ValuePart::InDn(AskedId::UserId)), evil));
    let text = String::from_utf8(value).unwrap();
    assert_eq!(text, "uid=ann\\2Cou\\3Dadmins\\2Bcn\\3Dx\\5C\\22\\3C\\3E\\3B\\3D\\23\\00,dc=x");
}

#[test]
fn a_search_without_its_value_is_not_made() {
    let filter = member(ValuePart::InDn(AskedId::UserId));
    for user in [String::new(), "a".repeat(VALUE_BYTES_MAX + 1)] {
        assert!(search(1, &wanted(filter.clone()), &question(&user), (1, 1)).is_err());
    }
    let nobody = Question::default();
    assert!(search(1, &wanted(filter), &nobody, (1, 1)).is_err());
}

#[test]
fn whole_trees_are_sent() {
    let filter = LdapFilter::And(vec![
        LdapFilter::Present("cn".to_owned()),
        LdapFilter::Not(Box::new(LdapFilter::Or(vec![LdapFilter::Matching {
            attribute: "member".to_owned(),
            rule: "1.2.840.113556.1.4.1941".to_owned(),
            value: vec![ValuePart::Of(AskedId::UserId)],
        }]))),
    ]);
    let bytes = sent(filter, "ann");
    let expected = b"\xa0\x87\x02cn\xa2\x2a\xa1\x28\xa9\x26\x81\x171.2.840.113556.1.4.1941\x82\x06member\x83\x03ann";
    assert_eq!(bytes, expected);
}

#[test]
fn answers_are_read() {
    let entry = b"\x30\x1d\x02\x01\x02\x64\x18\x04\x04cn=x\x30\x10\x30\x0e\x04\x02CN\x31\x08\x04\x03ops\x04\x01z";
    assert_eq!(read(entry, "cn"), Ok((2, Said::Entry(vec![b"ops".to_vec(), b"z".to_vec()]))));
    assert_eq!(read(entry, "ou"), Ok((2, Said::Entry(Vec::new()))));
    let done = b"\x30\x0c\x02\x01\x02\x65\x07\x0a\x01\x04\x04\x00\x04\x00";
    assert_eq!(read(done, "cn"), Ok((2, Said::Done(Outcome { code: 4 }))));
    let part = b"\x30\x28\x02\x01\x02\x64\x23\x04\x04cn=x\x30\x1b\x30\x19\x04\x0dCN;range=0-99\x31\x08\x04\x03ops\x04\x01z";
    assert!(read(part, "cn").is_err(), "some of the groups are not all of them");
    assert_eq!(read(part, "c"), Ok((2, Said::Entry(Vec::new()))));
    for cut in 0..entry.len() {
        assert!(read(&entry[..cut], "cn").is_err());
    }
}

#[test]
fn attack_sends_lengths_that_lie() {
    for bytes in [&b"\x30\x80"[..], b"\x30\x85\x01\x00\x00\x00\x00", b"\x3f\x01"] {
        assert!(ber::length(bytes, 1024).is_err());
    }
    assert!(ber::length(b"\x30\x84\xff\xff\xff\xff", 1024).is_err());
    assert_eq!(ber::length(b"\x30\x82\x01", 1024), Ok(None));
    assert_eq!(ber::length(b"\x30\x82\x01\x00", 1024), Ok(Some(260)));
}

proptest! {
    #[test]
    fn nothing_a_directory_sends_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, "cn");
        let _ = ber::length(&bytes, 100);
    }

    #[test]
    fn numbers_and_values_come_out_as_they_went_in(number: u32, user in "\\PC{1,80}") {
        let mut out = Vec::new();
        ber::put_number(&mut out, INTEGER, number);
        prop_assert_eq!(Reader(&out).number(INTEGER), Ok(number));
        let filter = LdapFilter::Equal("uid".to_owned(), vec![ValuePart::Of(AskedId::UserId)]);
        let (_, value) = equality(&sent(filter, &user));
        prop_assert_eq!(value, user.as_bytes());
    }
}
