// Service worker: shows each push message of the server.
self.addEventListener("push", (event) => {
  const { title, body, id } = event.data.json();
  // The same notification, pushed twice, is shown once.
  event.waitUntil(self.registration.showNotification(title, { body, tag: id }));
});
