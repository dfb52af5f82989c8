// An HTTP server of Node: node server.js PORT
const http = require('http');

http.createServer((request, response) => {
  if (request.url === '/events') {
    response.writeHead(200, {'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store'});
    let number = 0;
    const timer = setInterval(() => {
      response.write(`id: ${number}\ndata: tick ${number}\n\n`);
      if (++number === 5) { clearInterval(timer); response.end(); }
    }, 50);
    return;
  }
  let body = '';
  request.on('data', (piece) => { body += piece; });
  request.on('end', () => {
    response.writeHead(200, 'Fine Enough', {'Trailer': 'X-Sum'});
    response.write('got ');
    response.write(body);
    response.addTrailers({'X-Sum': String(body.length)});
    response.end(` from ${request.headers['countersign-caller']}`);
  });
}).listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'));
