//! Tells the plugin's version and commit to the compiler.

fn main() {
    gst_plugin_version_helper::info()
}
