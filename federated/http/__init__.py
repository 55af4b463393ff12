"""The analysts' HTTPS API of a coordinator, and its client.

signatures   HTTP Message Signatures (RFC 9421): who calls
problems     errors as `application/problem+json` (RFC 9457), and back
routes       which calls exist, and what goes in and comes out
openapi      the same as an OpenAPI 3.1 document
waiting      desk calls off the event loop, and waiting for a request to change
calls        one call as it arrives, read strictly
api          the server, over a desk
client       the same desk, from the analyst's machine
"""
