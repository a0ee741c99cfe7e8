//! Puts the key on a request. Keys for Amazon are `ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]`, or a Bedrock API key, or
//! both with a comma between: the pair signs, the API key opens the control plane without a signature.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    sign, PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode,
};
use aws_sigv4::sign::v4;

use super::secret::Secret;
use super::wire::{Auth, Body, Request};

const NO_PAIR: &str =
    "files for Bedrock go to S3, which wants a key of the form ACCESS_KEY_ID:SECRET_ACCESS_KEY; an API key alone is not enough";

/// The headers that carry the key.
///
/// # Errors
/// What is wrong with the key, which is not repeated.
pub fn headers(request: &Request, key: &Secret, now: SystemTime) -> Result<Vec<(String, String)>, &'static str> {
    let bearer = |key: &str| vec![("authorization".to_owned(), format!("Bearer {key}"))];
    match &request.auth {
        Auth::None => Ok(Vec::new()),
        Auth::Bearer => Ok(bearer(key.reveal())),
        Auth::Header(name) => Ok(vec![((*name).to_owned(), key.reveal().to_owned())]),
        Auth::SigV4 { service, region } => {
            let (pairs, api_keys): (Vec<&str>, Vec<&str>) =
                key.reveal().split(',').partition(|part| part.contains(':'));
            match (pairs.first(), api_keys.first()) {
                (_, Some(api_key)) if *service == "bedrock" => Ok(bearer(api_key)),
                (Some(pair), _) => signed(request, pair, service, region, now),
                (None, _) => Err(NO_PAIR),
            }
        }
    }
}

fn signed(
    request: &Request,
    pair: &str,
    service: &str,
    region: &str,
    now: SystemTime,
) -> Result<Vec<(String, String)>, &'static str> {
    let mut parts = pair.splitn(3, ':');
    let (id, secret) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let token = parts.next().map(str::to_owned);
    if id.is_empty() || secret.is_empty() {
        return Err(NO_PAIR);
    }
    let mut settings = SigningSettings::default();
    if service == "s3" {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let identity = Credentials::new(id, secret, token, None, "pg_finetune").into();
    let params = v4::SigningParams::builder().identity(&identity).region(region).name(service).time(now);
    let params = params.settings(settings).build().map_err(|_| "the request cannot be signed")?.into();
    let json = match &request.body {
        Body::Json(value) => value.to_string().into_bytes(),
        Body::Text { text, .. } => text.clone().into_bytes(),
        _ => Vec::new(),
    };
    let body = match &request.body {
        // Streamed from disk: TLS protects it, as the vendor's own tools do.
        Body::File(_) | Body::Multipart(_) => SignableBody::UnsignedPayload,
        _ => SignableBody::Bytes(&json),
    };
    let plain = request.headers.iter().map(|(name, value)| (*name, value.as_str()));
    let signable = SignableRequest::new(request.verb.name(), request.url.as_str(), plain, body)
        .map_err(|_| "the request cannot be signed")?;
    let (instructions, _) = sign(signable, &params).map_err(|_| "the request cannot be signed")?.into_parts();
    Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::wire::Verb;
    use std::time::Duration;

    fn of(auth: Auth, key: &str) -> Result<Vec<(String, String)>, &'static str> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let request = Request::new(Verb::Get, "https://example.amazonaws.com/", auth);
        headers(&request, &Secret::new(key), now)
    }

    fn sigv4(service: &'static str) -> Auth {
        Auth::SigV4 { service, region: "us-east-1".into() }
    }

    #[test]
    fn amazons_own_example_is_signed_the_same() {
        // "get-vanilla" of the signature version 4 test suite.
        let signed = of(sigv4("service"), "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap();
        let authorization = &signed.iter().find(|(name, _)| name == "authorization").unwrap().1;
        assert!(
            authorization.ends_with("Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            "{authorization}"
        );
    }

    #[test]
    fn the_key_decides_how_the_control_plane_is_asked() {
        let bearer = |key: &str| of(sigv4("bedrock"), key).unwrap()[0].1.starts_with("Bearer api");
        assert!(bearer("api-key") && bearer("AKID:secret,api-key"));
        assert!(!bearer("AKID:secret"));
        assert!(of(sigv4("s3"), "AKID:secret,api-key").unwrap().iter().any(|(name, _)| name == "x-amz-content-sha256"));
        assert!(of(sigv4("s3"), "AKID:s:token")
            .unwrap()
            .iter()
            .any(|(name, v)| name == "x-amz-security-token" && v == "token"));
        for key in ["api-key", "", ":", "AKID:"] {
            assert_eq!(of(sigv4("s3"), key), Err(NO_PAIR), "{key}");
        }
        assert_eq!(of(Auth::None, "k"), Ok(vec![]));
        assert_eq!(of(Auth::Header("api-key"), "k"), Ok(vec![("api-key".into(), "k".into())]));
    }
}
