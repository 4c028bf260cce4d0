//! Who may ask what: every RPC, as everybody, over real connections.

mod bed;

use std::collections::BTreeMap;

use bed::{Bed, dial};
use coordinator::grpc::auth::allows;
use coordinator_core::identity::Role;
use http::uri::PathAndQuery;
use lab_proto::PERMISSIONS;
use lab_proto::operator::{CreateTokenRequest, RevokeIdentityRequest, StatusRequest};
use tonic::{Code, Request, transport::Channel};

/// Calls a method with an empty message and gives the status code.
async fn call(channel: &Channel, path: &'static str) -> Code {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = PathAndQuery::from_static(path);
    // Server streaming fits unary methods as well: the first answer is looked at.
    let answered = client.server_streaming(Request::new(()), path, codec).await;
    match answered {
        Err(status) => status.code(),
        Ok(answer) => match answer.into_inner().message().await {
            Err(status) => status.code(),
            Ok(_) => Code::Ok,
        },
    }
}

/// A connection to the enrolment listener, as a machine without a certificate makes it.
async fn stranger(bed: &Bed) -> Channel {
    let address = bed.server.enrol_address().to_string();
    bed::plain_tls(bed.directory.path(), &address).await
}

#[tokio::test]
async fn every_rpc_is_open_to_those_who_may_and_to_nobody_else() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let mut callers: BTreeMap<&str, Channel> = BTreeMap::new();
    let token = bed.token("dev-01").await;
    let machine = bed.enrol(&token).await;
    callers.insert("machine", dial(&bed.server, &machine).await);
    for role in Role::ALL {
        let token = bed
            .token_for(CreateTokenRequest {
                operator: format!("test-{}", role.word()),
                role: role.word().to_owned(),
                ..CreateTokenRequest::default()
            })
            .await;
        let identity = bed.enrol(&token).await;
        callers.insert(role.word(), dial(&bed.server, &identity).await);
    }
    for (path, permission) in PERMISSIONS {
        for (who, channel) in &callers {
            let role = Role::ALL.into_iter().find(|role| role.word() == *who);
            let may = match role {
                Some(role) => allows(role, permission).expect("a known permission"),
                None => *permission == "agent.self",
            };
            let code = call(channel, path).await;
            if may {
                assert_ne!(code, Code::PermissionDenied, "{who} may {path}");
                assert_ne!(code, Code::Unauthenticated, "{who} may {path}");
                // Enrolment is not served here at all.
                assert_ne!(code, Code::Unimplemented, "{path} is not served");
            } else {
                assert_eq!(code, Code::PermissionDenied, "{who} may not {path}");
            }
        }
        // A connection for each: wrong tokens and refusals leave nothing behind.
        let code = call(&stranger(&bed).await, path).await;
        let expected = if *permission == "enrol" {
            Code::InvalidArgument
        } else {
            Code::PermissionDenied
        };
        assert_eq!(code, expected, "a stranger and {path}");
    }
}

#[test]
fn every_permission_is_in_the_table_and_roles_grow() {
    for (path, permission) in PERMISSIONS {
        let of = |role| allows(role, permission).unwrap_or_else(|| panic!("{path}: {permission}"));
        // What a viewer may, everybody may; an administrator may what any operator may.
        for role in Role::ALL {
            assert!(!of(Role::Viewer) || of(role), "{permission}");
            assert!(!of(role) || of(Role::Admin), "{permission}");
        }
        if ["agent.self", "enrol"].contains(permission) {
            assert!(!of(Role::Admin), "{permission} is not for operators");
        }
    }
    assert_eq!(allows(Role::Admin, "no.such"), None);
}

#[tokio::test]
async fn a_revoked_certificate_is_cut_off_at_once() {
    let mut bed = Bed::start().await;
    bed.configure().await;
    let mut viewer = bed.operator("vera", "viewer").await;
    let mut watching = viewer
        .watch_status(StatusRequest::default())
        .await
        .expect("a stream")
        .into_inner();
    watching.message().await.expect("good").expect("a status");
    let revoke = RevokeIdentityRequest {
        name: "vera".into(),
        reason: "left".into(),
        ..RevokeIdentityRequest::default()
    };
    bed.admin.revoke_identity(revoke).await.expect("revoked");
    // The stream that was open ends, and not with a status of the fleet.
    let ended = async { while let Ok(Some(_)) = watching.message().await {} };
    let soon = std::time::Duration::from_secs(5);
    tokio::time::timeout(soon, ended).await.expect("ended soon");
    let again = viewer
        .get_status(StatusRequest::default())
        .await
        .expect_err("refused");
    assert!(
        matches!(
            again.code(),
            Code::Unauthenticated | Code::Unavailable | Code::Unknown
        ),
        "{again:?}"
    );
    let again = viewer
        .get_status(StatusRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(again.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn what_is_not_served_is_said_to_be_unknown() {
    let bed = Bed::start().await;
    let admin = bed.admin_identity();
    let channel = dial(&bed.server, &admin).await;
    assert_eq!(
        call(&channel, "/lab.operator.v1.Operator/Explode").await,
        Code::Unimplemented
    );
    assert_eq!(call(&channel, "/").await, Code::Unimplemented);
}
