//! Compiles the `.proto` files without a system `protoc`, and turns the `permission` option of
//! every method into a table. A method without a permission does not build.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 3] = [
    "lab/agent.proto",
    "lab/enrolment.proto",
    "lab/operator.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;

    let pool = compiler.descriptor_pool();
    let option = pool
        .get_extension_by_name("lab.permission")
        .ok_or("lab/options.proto does not define the extension lab.permission")?;
    let mut table = String::from("&[\n");
    for service in pool.services() {
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(&option) {
                return Err(format!("rpc {} declares no permission", method.full_name()).into());
            }
            let value = options.get_extension(&option);
            let permission = value.as_str().unwrap_or_default();
            let path = format!("/{}/{}", service.full_name(), method.name());
            table.push_str(&format!("    ({path:?}, {permission:?}),\n"));
        }
    }
    table.push_str("]\n");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("permissions.rs"), table)?;

    let files = prost::bytes::Bytes::from(compiler.encode_file_descriptor_set());
    let set = tonic_prost_build::FileDescriptorSet::decode(files)?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Lean")
        // `lab --output json` prints these messages as they are: field names are the contract.
        .message_attribute(
            ".lab.changes.v1",
            "#[derive(serde::Serialize, serde::Deserialize)]",
        )
        .message_attribute(
            ".lab.operator.v1",
            "#[derive(serde::Serialize, serde::Deserialize)]",
        )
        .enum_attribute(
            ".lab.operator.v1",
            "#[derive(serde::Serialize, serde::Deserialize)]",
        )
        .field_attribute(
            ".lab.operator.v1.WaitReason",
            "#[serde(default, skip_serializing_if = \"crate::unset\")]",
        )
        .compile_fds(set)?;
    Ok(())
}
