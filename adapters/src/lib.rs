//! WebSocket, SSE, gRPC-Web and HTTP over the services.
