/** @type {import("next").NextConfig} */
const config = {
  // These packages load files beside themselves, so they are not bundled.
  serverExternalPackages: ["@grpc/grpc-js", "@grpc/proto-loader"],
  // The example is not part of the workspace above it.
  turbopack: { root: import.meta.dirname },
  outputFileTracingRoot: import.meta.dirname,
};

export default config;
