// Push service and browser: makes a subscription, then decrypts each message as a browser does,
// and verifies the sender's VAPID token as a push service does. Prints the subscription, then one
// line of JSON for each message.

import { createECDH, createPublicKey, randomBytes, verify } from 'node:crypto'
import { createServer } from 'node:http'
import ece from 'http_ece'

const browser = createECDH('prime256v1')
const key = browser.generateKeys()
const auth = randomBytes(16)
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)

const readToken = (authorization) => {
  const [, token, sender] = /^vapid t=([^,]+), k=([^,]+)$/.exec(authorization)
  const [head, claims, signature] = token.split('.')
  const point = Buffer.from(sender, 'base64url')
  const part = (from, to) => point.subarray(from, to).toString('base64url')
  const jwk = { kty: 'EC', crv: 'P-256', x: part(1, 33), y: part(33, 65) }
  const publicKey = { key: createPublicKey({ key: jwk, format: 'jwk' }), dsaEncoding: 'ieee-p1363' }
  const signed = Buffer.from(`${head}.${claims}`)
  return {
    verified: verify('sha256', signed, publicKey, Buffer.from(signature, 'base64url')),
    claims: JSON.parse(Buffer.from(claims, 'base64url')),
    sender,
  }
}

const server = createServer(async (request, response) => {
  const parts = []
  for await (const part of request) parts.push(part)
  const body = Buffer.concat(parts)
  const { headers } = request
  const plain = ece.decrypt(body, {
    version: 'aes128gcm',
    privateKey: browser,
    authSecret: auth.toString('base64url'),
  })
  const payload = JSON.parse(plain.toString('utf8'))
  print({ bytes: body.length, payload, headers, token: readToken(headers.authorization) })
  response.writeHead(201).end()
})
server.listen(0, '127.0.0.1', () => {
  const keys = { p256dh: key.toString('base64url'), auth: auth.toString('base64url') }
  const endpoint = `http://127.0.0.1:${server.address().port}/push/1`
  print({ endpoint, expirationTime: null, keys })
})
