use prost::Message;

/// Generates the code from what protoc made of protos/.
fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=protos.bin");
    let files = std::fs::read("protos.bin")?;
    let files = prost_types::FileDescriptorSet::decode(files.as_slice()).expect("a FileDescriptorSet");
    tonic_prost_build::configure().build_server(false).compile_fds(files)
}
