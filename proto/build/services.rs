//! Code generation for service servers, and for JSON calls of unary RPCs.

use std::fmt::Write as _;

use prost_reflect::{
    DescriptorPool, FileDescriptor, MessageDescriptor, MethodDescriptor, ServiceDescriptor,
};
use tonic_build::manual::{Builder, Method, Service};

use crate::names;

/// The message that is encoded once and shared by all its streams.
const SHARED: &str = "tidewire.v1.ServerMessage";

fn ours(pool: &DescriptorPool) -> impl Iterator<Item = ServiceDescriptor> {
    pool.services()
        .filter(|service| service.parent_file().package_name() == "tidewire.v1")
}

fn rust_type(message: &MessageDescriptor) -> String {
    format!("crate::v1::{}", message.name())
}

/// Generates the server of each service.
pub(crate) fn servers(pool: &DescriptorPool) {
    for service in ours(pool) {
        let mut builder = Service::builder()
            .name(service.name())
            .package("tidewire.v1");
        for line in comment(&service.parent_file(), service.path()) {
            builder = builder.comment(line);
        }
        for method in service.methods() {
            builder = builder.method(server_method(&method));
        }
        Builder::new()
            .build_client(false)
            .compile(&[builder.build()]);
    }
}

/// Returns the comment before a declaration, without linter directives.
fn comment(file: &FileDescriptor, path: &[i32]) -> Vec<String> {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let locations = info.map_or(&[][..], |info| &info.location);
    let location = locations.iter().find(|location| location.path == path);
    location
        .map_or("", |location| location.leading_comments())
        .lines()
        .filter(|line| !line.trim_start().starts_with("buf:"))
        .map(str::to_owned)
        .collect()
}

fn server_method(method: &MethodDescriptor) -> Method {
    let input = rust_type(&method.input());
    let is_shared = method.output().full_name() == SHARED;
    let (output, codec) = if is_shared {
        (
            "crate::EncodedMessage".to_owned(),
            format!("crate::codec::SharedCodec::<{input}>"),
        )
    } else {
        (
            rust_type(&method.output()),
            "crate::codec::MessageCodec".to_owned(),
        )
    };
    let mut builder = Method::builder()
        .name(names::snake(method.name()))
        .route_name(method.name())
        .input_type(input)
        .output_type(output)
        .codec_path(codec);
    for line in comment(&method.parent_file(), method.path()) {
        builder = builder.comment(line);
    }
    if method.is_client_streaming() {
        builder = builder.client_streaming();
    }
    if method.is_server_streaming() {
        builder = builder.server_streaming();
    }
    builder.build()
}

fn is_stream(method: &MethodDescriptor) -> bool {
    method.is_server_streaming() || method.is_client_streaming()
}

/// Form of the requests and responses of calls by name.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Protobuf,
}

/// Generates two functions per service that call a unary RPC by name.
pub(crate) fn calls_by_name(pool: &DescriptorPool) -> String {
    let mut out = calls_in(pool, Form::Json);
    out.push_str(&streams(pool));
    out.push_str("/// The same calls with protobuf in and out, as other nodes send them.\npub mod protobuf {\nuse super::{Bytes, Request, Response, Status, decode as parse, encode as answer, is_a_stream, no_method, v1};\n");
    out.push_str(&calls_in(pool, Form::Protobuf));
    out + "}\n"
}

fn calls_in(pool: &DescriptorPool, form: Form) -> String {
    let name_of_form = match form {
        Form::Json => "JSON",
        Form::Protobuf => "protobuf",
    };
    let mut out = String::new();
    for service in ours(pool) {
        let (name, module) = (service.name(), names::snake(service.name()));
        let streams: Vec<_> = service.methods().filter(is_stream).collect();
        let unary: Vec<_> = service
            .methods()
            .filter(|method| !is_stream(method))
            .collect();
        let list = unary
            .iter()
            .map(MethodDescriptor::name)
            .collect::<Vec<_>>()
            .join(", ");
        let _ = writeln!(
            out,
            "/// Calls a unary RPC of `{name}` by name, with {name_of_form} in and out.\n///\n/// # Errors\n\
             /// The RPC's own, `invalid_argument` for a request that is not {name_of_form}, `unimplemented` for a method that there is not.\n\
             pub async fn {module}<S>(service: &S, method: &str, request: Request<Bytes>) -> Result<Response<Vec<u8>>, Status>\n\
             where S: v1::{module}_server::{name} {{\n    match method {{"
        );
        for method in &unary {
            let call = names::snake(method.name());
            let _ = writeln!(
                out,
                "        {:?} => answer(service.{call}(parse(request)?).await),",
                method.name()
            );
        }
        for method in &streams {
            let _ = writeln!(
                out,
                "        {:?} => Err(is_a_stream(method)),",
                method.name()
            );
        }
        let _ = writeln!(
            out,
            "        _ => Err(no_method({name:?}, method, {list:?})),\n    }}\n}}"
        );
    }
    out
}

/// Generates the list of RPCs with a stream.
fn streams(pool: &DescriptorPool) -> String {
    let mut out = "/// The RPCs whose request or response is a stream.\npub const STREAMS: &[StreamCall] = &[\n".to_owned();
    for service in ours(pool) {
        for method in service.methods().filter(is_stream) {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let streams_request = method.is_client_streaming();
            let _ = writeln!(
                out,
                "    StreamCall {{ path: {path:?}, streams_request: {streams_request} }},"
            );
        }
    }
    out + "];\n"
}
