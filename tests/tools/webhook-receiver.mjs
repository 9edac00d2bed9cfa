// Webhook receiver: verifies requests with the library `standardwebhooks`, once with each of the
// secrets in its arguments. Prints its port, then one line of JSON for each request.

import { createServer } from 'node:http'
import { Webhook } from 'standardwebhooks'

const webhooks = process.argv.slice(2).map((secret) => new Webhook(secret))
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)

const verify = (webhook, body, headers) => {
  try {
    webhook.verify(body, headers)
    return true
  } catch {
    return false
  }
}

const server = createServer(async (request, response) => {
  const parts = []
  for await (const part of request) parts.push(part)
  const body = Buffer.concat(parts).toString('utf8')
  const { headers } = request
  const verified = webhooks.map((webhook) => verify(webhook, body, headers))
  print({ verified, headers, body: JSON.parse(body) })
  response.writeHead(204).end()
})
server.listen(0, '127.0.0.1', () => print({ port: server.address().port }))
