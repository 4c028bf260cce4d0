//! `lab token …`, `lab identity …`, `lab audit …`

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use common::token::EnrolmentToken;
use lab_proto::operator::{
    ApproveIdentityRequest, AuditRequest, CreateTokenRequest, Identity as Certificate,
    ListIdentitiesRequest, ListTokensRequest, RevokeIdentityRequest, RevokeTokenRequest,
    VerifyAuditRequest,
};
use serde_json::json;

use super::Context;
use crate::{
    args::trust::{
        ApproveIdentity, Audit, AuditVerb, CreateToken, Enrol, Identity, RevokeIdentity, Token,
    },
    client::{Settings, ask, with_port},
    error::{Exit, LabError},
    view,
};

/// Longest token file, in bytes.
const TOKEN_FILE_MAX: u64 = 4096;

/// Port of the enrolment service, where only a host is named.
const ENROL_PORT: u16 = 7444;

/// Runs one verb of `lab token`.
pub async fn token(context: &Context, verb: Token) -> Result<Exit, LabError> {
    match verb {
        Token::Create(args) => create_token(context, args).await,
        Token::List => {
            let mut client = context.open().await?;
            let list = ask(client.list_tokens(ListTokensRequest {})).await?;
            context
                .output
                .result(&list, |look| view::trust::tokens(&list, look))?;
            Ok(Exit::Yes)
        }
        Token::Revoke(args) => {
            let mut client = context.open().await?;
            let request = RevokeTokenRequest {
                id: args.id,
                reason: args.reason,
            };
            let done = ask(client.revoke_token(request)).await?;
            context.output.done(&done)
        }
    }
}

async fn create_token(context: &Context, args: CreateToken) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let request = CreateTokenRequest {
        machine: args.machine.map(String::from).unwrap_or_default(),
        operator: args.operator.map(String::from).unwrap_or_default(),
        role: args.role.map_or("", |role| role.word()).into(),
        valid_for_s: args.valid_for.seconds(),
    };
    let reply = ask(client.create_token(request)).await?;
    let show = |look: &view::Look| view::trust::created_token(&reply, look);
    context.output.result(&reply, show)?;
    Ok(Exit::Yes)
}

/// Runs one verb of `lab identity`.
pub async fn identity(context: &Context, verb: Identity) -> Result<Exit, LabError> {
    match verb {
        Identity::List => {
            let mut client = context.open().await?;
            let list = ask(client.list_identities(ListIdentitiesRequest {})).await?;
            context
                .output
                .result(&list, |look| view::trust::identities(&list, look))?;
            Ok(Exit::Yes)
        }
        Identity::Approve(args) => approve(context, args).await,
        Identity::Revoke(args) => revoke(context, args).await,
        Identity::Enrol(args) => enrol(context, &args).await,
    }
}

async fn approve(context: &Context, args: ApproveIdentity) -> Result<Exit, LabError> {
    let name = args.name.to_string();
    let mut client = context.open().await?;
    let list = ask(client.list_identities(ListIdentitiesRequest {})).await?;
    let asks = |identity: &&Certificate| identity.name == name && !identity.asked_at.is_empty();
    // Who does not ask is the coordinator's to say, as everything else is.
    let mut key = String::new();
    if let Some(identity) = list.identities.iter().find(asks) {
        let question = view::trust::asks_to_return(identity, context.output.look());
        context.output.confirm_destructive(&question)?;
        key.clone_from(&identity.key);
    }
    let request = ApproveIdentityRequest {
        name,
        key,
        reason: args.reason,
    };
    let done = ask(client.approve_identity(request)).await?;
    context.output.done(&done)
}

async fn revoke(context: &Context, args: RevokeIdentity) -> Result<Exit, LabError> {
    let whose = match (&args.name, &args.serial) {
        (Some(name), _) => format!("every certificate of {name}"),
        (None, serial) => format!("the certificate {}", serial.as_deref().unwrap_or_default()),
    };
    context
        .output
        .confirm_destructive(&format!("Revoke {whose}?"))?;
    let mut client = context.open().await?;
    let request = RevokeIdentityRequest {
        serial: args.serial.unwrap_or_default(),
        name: args.name.unwrap_or_default(),
        reason: args.reason,
    };
    let done = ask(client.revoke_identity(request)).await?;
    context.output.done(&done)
}

/// Trades a token for an identity file, and notes the coordinator's address beside it.
async fn enrol(context: &Context, args: &Enrol) -> Result<Exit, LabError> {
    let settings = Settings::of(&context.global)?;
    let file = &settings.identity;
    // A token works once: everything that can fail without it fails first.
    if file.exists() && !args.replace {
        return Err(LabError::usage("there is an identity already")
            .at(file.display())
            .hint("replace it with --replace, or name another file: --identity=FILE"));
    }
    let address = match &args.enrol_address {
        Some(address) => with_port(address, ENROL_PORT),
        None => settings.enrol_address()?,
    };
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => return Err(LabError::usage("no token is given").hint("--token-file=FILE")),
    };
    let token = EnrolmentToken::parse(&token)
        .map_err(|error| LabError::usage(error.to_string()).hint("make one: lab token create"))?;
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(|error| unwritable(directory, &error))?;
    }
    let identity = platform::enrol::enrol(&address, &token).await?;
    identity.save(file)?;
    if let Some(coordinator) = &settings.coordinator
        && !settings.noted_coordinator.exists()
        && file.parent() == settings.noted_coordinator.parent()
    {
        let noted = &settings.noted_coordinator;
        fs::write(noted, format!("{coordinator}\n")).map_err(|error| unwritable(noted, &error))?;
    }
    let subject = identity.subject().to_string();
    let whole = json!({ "subject": subject, "file": file, "serial": identity.serial() });
    context.output.result(&whole, |_| {
        format!("✔ enrolled as {subject}\n  identity: {}\n", file.display())
    })?;
    Ok(Exit::Yes)
}

fn unwritable(path: &Path, error: &io::Error) -> LabError {
    LabError::usage(format!("failed to write: {error}")).at(path.display())
}

fn read_token(path: &Path) -> Result<String, LabError> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(TOKEN_FILE_MAX).read_to_string(&mut text)
    } else {
        let file = fs::File::open(path);
        file.and_then(|file| file.take(TOKEN_FILE_MAX).read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => {
            let what = format!("failed to read the token: {error}");
            Err(LabError::usage(what).at(path.display()))
        }
    }
}

/// The audit records, or whether their chain is intact.
pub async fn audit(context: &Context, args: &Audit) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    if let Some(AuditVerb::Verify) = args.verb {
        let reply = ask(client.verify_audit(VerifyAuditRequest {})).await?;
        context
            .output
            .result(&reply, |_| view::trust::verified_audit(&reply))?;
        return Ok(if reply.intact { Exit::Yes } else { Exit::No });
    }
    let request = AuditRequest {
        limit: args.limit,
        days: args.days,
    };
    let records = ask(client.get_audit(request)).await?;
    context
        .output
        .result(&records, |look| view::trust::audit(&records, look))?;
    Ok(Exit::Yes)
}
