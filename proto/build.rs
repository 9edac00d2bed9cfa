//! Code generation from `tidewire/v1/*.proto`: message types, service clients and servers, and
//! the JSON form of every message.

#[path = "build/json/mod.rs"]
mod json;
#[path = "build/names.rs"]
mod names;
#[path = "build/services.rs"]
mod services;

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=tidewire");
    println!("cargo:rerun-if-changed=build");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files: Vec<PathBuf> = fs::read_dir(root.join("tidewire/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let compile = |with_comments: bool| -> Result<protox::Compiler, protox::Error> {
        let mut compiler = protox::Compiler::new([&root])?;
        compiler
            .include_source_info(with_comments)
            .include_imports(true);
        compiler.open_files(&files)?;
        Ok(compiler)
    };
    // Descriptors for reflection omit comments, which are most of their bytes.
    let descriptors = compile(false)?.encode_file_descriptor_set();
    fs::write(out.join("descriptor.bin"), descriptors)?;
    let compiler = compile(true)?;
    tonic_prost_build::configure()
        .bytes(".")
        // The servers are generated below, so that streams can share encoded bytes.
        .build_server(false)
        // The generated `connect` constructor would clash with the `Connect` RPC.
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    let pool = compiler.descriptor_pool();
    services::servers(&pool);
    fs::write(out.join("rpc.rs"), services::calls_by_name(&pool))?;
    fs::write(out.join("json.rs"), json::generate(&pool)?)?;
    fs::write(out.join("messages.rs"), json::registry(&pool))?;
    Ok(())
}
